//! Defects that tests plant: a rule of the shipped code, switched off at its place.
//!
//! A test that cannot fail proves nothing. Each hazard of `docs/hazards.md` has a place in the code where `planted("a1")`
//! stands beside the rule; `cargo xtask campaign planted` runs the hazard's test with the rule and without it, and the test
//! has to turn red. Without the feature `plant`, which is never a default, the question is a constant and the defect does
//! not exist in the binary.

/// Whether the rule against this hazard is switched off: never, in what is shipped.
#[cfg(not(feature = "plant"))]
pub const fn planted(_hazard: &str) -> bool {
    false
}

/// Whether the rule against this hazard is switched off, by `ASOF_PLANT`.
#[cfg(feature = "plant")]
pub fn planted(hazard: &str) -> bool {
    std::env::var_os("ASOF_PLANT").is_some_and(|planted| planted == hazard)
}

#[cfg(all(test, not(feature = "plant")))]
mod tests {
    use super::planted;

    #[test]
    fn what_is_shipped_has_no_defect_on_purpose() {
        const NONE: bool = planted("a1");
        assert_eq!(NONE, planted("e5"));
        assert!(!planted("a1"));
    }
}
