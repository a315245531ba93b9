//! cross_thread
