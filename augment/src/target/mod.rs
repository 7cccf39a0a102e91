//! What the model is to predict at the hidden tokens.

pub mod bytes;
pub mod hog;
pub mod hog_picture;
pub mod pixels;
