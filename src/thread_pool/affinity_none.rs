//! Binding threads to cores, where it cannot be done.

/// No core can be named.
pub(super) fn is_valid(_core: usize) -> bool {
    false
}

/// Does nothing.
pub(super) fn bind_to(_core: usize) {}
