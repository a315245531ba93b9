//! libxev_families
