//! Packs, maps and WAL: what was stored comes back, and nothing else ever does.
