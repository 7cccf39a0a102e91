//! What the model is to predict at the hidden tokens.

pub mod hog;
pub mod hog_picture;
pub mod pixels;
