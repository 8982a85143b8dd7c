//! The disk refuses: errors, no room, read-only.
