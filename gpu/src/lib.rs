//! Page-locked memory and the device stage (CUDA, loaded at run time).
