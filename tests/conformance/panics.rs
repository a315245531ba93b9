//! panics
