//! The long versions: every enumeration and every contest, over as many seeds as there is time for.

use std::ops::Range;

use crate::crash::{Finding, Settings, Tried, enumerate_crashes, enumerate_interruptions, enumerate_outages};
use crate::scenarios::backup::Backups;
use crate::scenarios::journal::{Appends, Contested, Counts, contest};
use crate::scenarios::objects::{Creation, Race, Truth};
use crate::scenarios::spool::Spooled;
use crate::scenarios::wal::Receiver;

/// A part of the campaign and how much it tried.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Which one.
    pub name: &'static str,
    /// How much.
    pub tried: Tried,
}

type Enumeration = fn(&Settings) -> Result<Tried, Box<Finding>>;

/// The enumerations by name: on a disk, on an object store, with a rival.
const ENUMERATIONS: [(&str, Enumeration); 13] = [
    ("objects on a disk", |settings| enumerate_crashes(settings, Creation)),
    ("objects on a disk, asking again", |settings| enumerate_crashes(&settings.clone().patient(), Creation)),
    ("objects on a disk, with a rival", |settings| enumerate_interruptions(settings, Race)),
    ("objects in a store", |settings| enumerate_outages(settings, Creation)),
    ("outcomes in a store", |settings| enumerate_outages(settings, Truth)),
    ("outcomes in a store, asking again", |settings| enumerate_outages(&settings.clone().patient(), Truth)),
    ("journal on a disk", |settings| enumerate_crashes(settings, Appends(Counts::Appended))),
    ("journal in a store, asking again", |settings| {
        enumerate_outages(&settings.clone().patient(), Appends(Counts::Read))
    }),
    ("backups on a disk", |settings| enumerate_crashes(settings, Backups)),
    ("backups in a store, asking again", |settings| enumerate_outages(&settings.clone().patient(), Backups)),
    ("WAL in a spool", |settings| enumerate_crashes(settings, Spooled)),
    ("WAL on a disk", |settings| enumerate_crashes(settings, Receiver(Counts::Appended))),
    ("WAL in a store, asking again", |settings| enumerate_outages(&settings.clone().patient(), Receiver(Counts::Read))),
];

/// Stops every protocol at every call, once per seed: those whose name contains `only`. `tell` hears of every part when it
/// is done.
///
/// # Errors
/// The first thing that does not hold.
pub fn crash_points(seeds: Range<u64>, only: &str, mut tell: impl FnMut(&Part)) -> Result<Tried, Box<Finding>> {
    let mut total = Tried::default();
    for (name, enumerate) in ENUMERATIONS.into_iter().filter(|(name, _)| name.contains(only)) {
        let mut tried = Tried::default();
        for seed in seeds.clone() {
            let part = enumerate(&Settings::thorough(seed));
            tried +=
                part.map_err(|finding| Box::new(Finding { case: format!("{name}: {}", finding.case), ..*finding }))?;
        }
        tell(&Part { name, tried });
        total += tried;
    }
    Ok(total)
}

/// Lets writers compete for one journal, once per seed.
///
/// # Errors
/// The first thing that does not hold.
pub fn contests(seeds: Range<u64>) -> Result<Contested, Box<Finding>> {
    let mut total = Contested::default();
    for seed in seeds {
        total += contest(seed)?;
    }
    Ok(total)
}
