//! Binding threads to cores, where it cannot be done.

/// No core can be named.
pub(crate) fn is_valid(_core: usize) -> bool {
    false
}

/// Does nothing.
pub(crate) fn bind_to(_core: usize) {}
