//! Schema steps: the files in `migrations/`.

pub mod file;
