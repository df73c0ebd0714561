//! Every protocol, stopped at every call; and the defects that this has to find.

use asof_sim::MemoryStore;
use std::sync::Mutex;

use asof_sim::crash::{
    Finding, Machine, Outcome, Scenario, Settings, Tried, enumerate_crashes, enumerate_interruptions, enumerate_outages,
};
use asof_sim::planted::Planted;
use asof_sim::scenarios::backup::Backups;
use asof_sim::scenarios::journal::{Appends, Counts, contest, contest_on};
use asof_sim::scenarios::objects::{Creation, Deletion, Race, Truth};
use asof_sim::scenarios::spool::Spooled;
use asof_sim::scenarios::wal::Receiver;

/// Everything held, and enough was tried.
fn survives(result: Result<Tried, Box<Finding>>, at_least: usize) {
    let tried = result.unwrap_or_else(|finding| panic!("{finding}"));
    println!("{tried}");
    assert!(tried.restarts >= at_least, "only {tried}");
}

/// The defect was found, and found for this reason.
fn is_caught(result: Result<Tried, Box<Finding>>, reason: &str) {
    let finding = result.expect_err("the defect is found");
    assert!(finding.what.contains(reason), "found for another reason: {finding}");
}

#[test]
fn hz_f2_an_object_is_there_whole_or_not_at_all_whenever_the_power_goes() {
    survives(enumerate_crashes(&Settings::quick(1), Creation), 1000);
}

#[test]
fn an_object_is_there_whole_or_not_at_all_for_a_process_that_asks_again() {
    survives(enumerate_crashes(&Settings::quick(1).patient(), Creation), 1000);
}

#[test]
fn of_two_creators_one_wins_at_every_interruption() {
    survives(enumerate_interruptions(&Settings::quick(1), Race), 100);
}

#[test]
fn an_object_in_a_new_directory_deep_down_survives() {
    let settings = Settings { root: "/srv/new/and/deep/asof", ..Settings::quick(1) };
    survives(enumerate_crashes(&settings, Creation), 100);
}

#[test]
fn hz_f3_what_a_store_says_of_a_creation_is_true_after_every_sync_that_failed() {
    survives(enumerate_crashes(&Settings::quick(1), Truth), 100);
}

#[test]
fn what_a_store_that_asks_again_says_of_a_creation_is_true() {
    survives(enumerate_crashes(&Settings::quick(1).patient(), Truth), 100);
}

#[test]
fn what_an_object_store_says_of_a_creation_is_true() {
    survives(enumerate_outages(&Settings::quick(1), Truth), 10);
    survives(enumerate_outages(&Settings::quick(1).patient(), Truth), 10);
}

#[test]
fn a_deleted_object_does_not_come_back() {
    survives(enumerate_crashes(&Settings::quick(1), Deletion), 100);
}

#[test]
fn objects_survive_every_outage_of_an_object_store() {
    survives(enumerate_outages(&Settings::quick(1), Creation), 20);
    survives(enumerate_outages(&Settings::quick(1).patient(), Creation), 20);
}

#[test]
fn a_store_that_skips_the_directory_sync_is_caught() {
    let settings = Settings::quick(1).with(Planted::NoDirectorySync);
    is_caught(enumerate_crashes(&settings, Creation), "was acknowledged and is not there");
}

#[test]
fn a_store_that_skips_the_file_sync_is_caught() {
    let settings = Settings::quick(1).with(Planted::NoFileSync);
    is_caught(enumerate_crashes(&settings, Creation), "not as it was created");
}

#[test]
fn a_store_that_renames_instead_of_linking_is_caught() {
    let settings = Settings::quick(1).with(Planted::RenameInsteadOfLink);
    is_caught(enumerate_interruptions(&settings, Race), "was won by [2, 1]");
}

#[test]
fn an_appended_entry_is_there_for_ever() {
    survives(enumerate_crashes(&Settings::quick(1), Appends(Counts::Appended)), 1000);
    survives(enumerate_outages(&Settings::quick(1), Appends(Counts::Appended)), 50);
    survives(enumerate_outages(&Settings::quick(1).patient(), Appends(Counts::Appended)), 50);
}

#[test]
fn an_entry_that_was_read_is_there_for_ever() {
    survives(enumerate_crashes(&Settings::quick(1), Appends(Counts::Read)), 100);
}

#[test]
fn an_appended_entry_is_there_once_for_a_process_that_asks_again() {
    survives(enumerate_crashes(&Settings::quick(1).patient(), Appends(Counts::Appended)), 100);
}

#[test]
fn competing_writers_lose_nothing_and_the_stale_one_is_refused() {
    let mut total = asof_sim::scenarios::journal::Contested::default();
    for seed in 0..40 {
        total += contest(seed).unwrap_or_else(|finding| panic!("{finding}"));
    }
    println!("{total}");
    assert!(total.acknowledged > 300 && total.refused > 5, "too little happened: {total}");
}

#[test]
fn a_store_that_overwrites_loses_entries_and_is_caught() {
    let caught =
        (0..20).any(|seed| contest_on(seed, |world, _| MemoryStore::ignoring_create_if_absent(world)).is_err());
    assert!(caught);
}

#[test]
fn a_committed_backup_restores_after_everything() {
    let settings = Settings { mixtures: 1, every: 16, ..Settings::quick(1) };
    survives(enumerate_crashes(&settings, Backups), 100);
    survives(enumerate_outages(&Settings::quick(1).patient(), Backups), 100);
    survives(enumerate_outages(&Settings::quick(1), Backups), 100);
}

#[test]
fn acknowledged_wal_is_readable_without_a_hole_after_everything() {
    let settings = Settings { mixtures: 2, every: 4, ..Settings::quick(1) };
    survives(enumerate_crashes(&settings, Receiver(Counts::Appended)), 200);
    survives(enumerate_outages(&Settings::quick(1).patient(), Receiver(Counts::Appended)), 40);
    survives(enumerate_outages(&Settings::quick(1), Receiver(Counts::Appended)), 40);
}

#[test]
fn wal_that_a_new_receiver_finds_may_be_acknowledged() {
    let settings = Settings { mixtures: 2, ..Settings::quick(1) };
    survives(enumerate_crashes(&settings, Receiver(Counts::Read)), 100);
}

#[test]
fn hz_c1_what_a_spool_has_acknowledged_is_there_after_everything() {
    survives(enumerate_crashes(&Settings::quick(1), Spooled), 300);
}

#[test]
fn a_spool_on_a_disk_that_is_never_synced_is_caught() {
    for mistake in [Planted::NoFileSync, Planted::NoDirectorySync] {
        let settings = Settings::quick(1).with(mistake);
        is_caught(enumerate_crashes(&settings, Spooled), "WAL");
    }
}

#[test]
fn a_finding_names_the_case_the_last_calls_and_the_seed() {
    let settings = Settings::quick(7).with(Planted::NoFileSync);
    let text = enumerate_crashes(&settings, Creation).expect_err("the defect is found").to_string();
    for part in ["seed 7", "the power went", "last calls", "create /srv/asof/tmp/"] {
        assert!(text.contains(part), "\"{part}\" is missing from:\n{text}");
    }
}

#[test]
fn a_panic_of_the_code_under_test_is_a_finding() {
    struct Panics;

    #[async_trait::async_trait]
    impl Scenario for Panics {
        type Context = ();
        type Ledger = ();

        async fn prepare(&self, _: &Machine) -> Outcome {
            Ok(())
        }

        async fn work(&self, _: &Machine, (): &(), _: &Mutex<()>) -> Outcome {
            panic!("on purpose")
        }

        async fn check(&self, _: &Machine, (): &(), (): &()) -> Outcome {
            Ok(())
        }
    }

    is_caught(enumerate_crashes(&Settings::quick(1), Panics), "panic: on purpose");
    is_caught(enumerate_outages(&Settings::quick(1), Panics), "panic: on purpose");
}

#[test]
fn seed_21_a_journal_has_no_hole_after_two_processes_were_stopped() {
    let settings = Settings { every: 30, ..Settings::thorough(21) };
    survives(enumerate_crashes(&settings, Appends(Counts::Appended)), 100);
}
