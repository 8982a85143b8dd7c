//! A private authority, and certificates of nodes.
