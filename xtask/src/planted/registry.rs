//! Which hazards have a defect to plant, where their tests are, and what the defect is. One row each, in order.

/// A defect that can be planted, and the test that must find it.
#[derive(Debug)]
pub(crate) struct Plant {
    /// The hazard in lower case, which is also what `ASOF_PLANT` says.
    pub(crate) id: &'static str,
    pub(crate) package: &'static str,
    /// A test target of the package, or [`LIB`].
    pub(crate) target: &'static str,
    pub(crate) test: &'static str,
    /// What the code does when the rule is off.
    pub(crate) defect: &'static str,
}

/// The tests inside a package's library.
pub(crate) const LIB: &str = "lib";

/// Hazards that stay without a test, and why.
pub(crate) const UNTESTED: &[(&str, &str)] =
    &[("C4", "nothing drops WAL: there is no queue with a limit, and no option for one")];

const fn plant(
    id: &'static str,
    package: &'static str,
    target: &'static str,
    test: &'static str,
    defect: &'static str,
) -> Plant {
    Plant { id, package, target, test, defect }
}

const fn engine(id: &'static str, test: &'static str, defect: &'static str) -> Plant {
    plant(id, "asof-engine", "hazards", test, defect)
}

#[rustfmt::skip]
pub(crate) const PLANTS: &[Plant] = &[
    engine("a1", "hz_a1_a_restored_instance_does_not_start_without_its_label_and_production_starts_without_one",
        "pg_control keeps its checkpoint"),
    engine("a2", "hz_a2_a_backup_whose_session_ended_while_copying_is_none",
        "any connection may end the backup"),
    engine("a3", "hz_a3_a_standby_whose_wal_cannot_mend_torn_pages_is_refused",
        "only the server itself looks at full_page_writes"),
    engine("a4", "hz_a4_a_control_file_that_is_being_written_is_read_until_it_is_whole",
        "the checksum of pg_control is not looked at"),
    engine("a5", "hz_a5_a_file_that_cannot_be_read_fails_the_backup_and_one_that_vanished_does_not",
        "every error at opening means that a file vanished"),
    engine("a6", "hz_a6_a_database_that_is_created_during_the_backup_arrives_whole_or_not_at_all",
        "nobody looks whether a database has its two files"),
    engine("a7", "hz_a7_a_link_whose_content_nobody_judged_is_refused_and_known_ones_are_followed_once",
        "unknown links are left out"),
    engine("a8", "hz_a8_what_a_base_backup_leaves_out_is_left_out_and_unlogged_tables_come_back_empty",
        "init forks are left out, too"),
    engine("a9", "hz_a9_damage_is_found_in_a_cold_page_and_a_page_being_written_raises_no_alarm",
        "page checksums are not looked at"),
    engine("a10", "hz_a10_a_damaged_backup_never_takes_the_place_of_the_last_clean_one",
        "the newest backup is chosen, clean or not"),
    engine("a11", "hz_a11_a_backup_whose_wal_is_not_in_the_repository_is_none",
        "the commit does not wait for WAL"),
    engine("a12", "hz_a12_a_standby_that_is_promoted_half_way_gives_no_backup",
        "a backup that a promotion ended is started again without its copy"),
    engine("a13", "hz_a13_a_broken_attempt_is_never_continued_with_files_of_another_moment",
        "a page that is stored is reused whatever it holds now"),
    engine("a14", "hz_a14_names_of_any_bytes_and_sparse_files_come_back_as_they_were",
        "paths are taken for UTF-8"),
    engine("c1", "hz_c1_nothing_is_acknowledged_before_it_is_stored",
        "what was received is reported as stored"),
    engine("c2", "hz_c2_an_archived_segment_is_acknowledged_only_whole_and_stored",
        "the length of an archived segment is not looked at"),
    engine("c3", "hz_c3_a_stored_segment_is_never_replaced_by_another",
        "whatever is stored under the name will do"),
    plant("c5", "asof-engine", "receiver",
        "hz_c5_a_slot_that_the_server_gave_up_is_made_again_and_leaves_a_recorded_gap",
        "the stream begins anew and the gap is not recorded"),
    engine("c6", "hz_c6_a_commit_that_was_acknowledged_is_in_the_next_restore_although_its_segment_is_open",
        "only whole segments are restored"),
    engine("c7", "hz_c7_every_history_file_is_kept_as_it_was_first_stored_and_odd_names_are_refused",
        "history files are acknowledged and not stored"),
    engine("c8", "hz_c8_segments_of_every_size_come_back",
        "a segment has 16 MB"),
    plant("c9", "asof-postgres", LIB, "hz_c9_a_flipped_bit_never_yields_a_changed_record",
        "the checksum of a record is not looked at"),
    engine("c10", "hz_c10_a_full_disk_stops_the_acknowledgement_and_nothing_else",
        "a failed write is taken for done"),
    plant("c11", "asof-engine", LIB, "hz_c11_a_failover_below_the_stored_end_leaves_a_tail",
        "the fork is not compared with what is stored"),
    engine("d1", "hz_d1_another_server_cannot_write_under_the_name_of_the_first",
        "nobody compares the server with the registered one"),
    engine("d2", "hz_d2_a_restored_copy_leaves_the_archive_of_its_origin_alone",
        "the restored copy keeps the archive settings"),
    engine("d3", "hz_d3_of_two_servers_that_chose_one_timeline_the_second_is_refused",
        "a history that is there already is not compared"),
    engine("d4", "hz_d4_a_server_of_another_major_or_catalogue_is_another_instance",
        "only the system identifier is compared"),
    engine("d5", "hz_d5_recovery_follows_the_branch_that_contains_the_backup",
        "the newest timeline is followed, wherever it forked"),
    engine("e1", "hz_e1_a_store_that_does_not_answer_is_not_the_end_of_wal",
        "every error at reading means that WAL ends"),
    engine("e2", "hz_e2_a_target_before_the_end_of_the_backup_or_behind_the_last_wal_is_refused",
        "the end of the backup is not compared with the target"),
    engine("e3", "hz_e3_a_time_without_a_zone_is_refused_and_one_with_a_zone_is_one_moment",
        "a time without a zone is taken for UTC"),
    engine("e4", "hz_e4_a_target_says_exactly_which_commits_are_inside",
        "the target always belongs to it"),
    engine("e5", "hz_e5_a_restore_never_writes_over_a_live_or_foreign_directory",
        "a directory that is not empty is emptied"),
    engine("e6", "hz_e6_a_restore_that_was_killed_anywhere_does_not_start_until_it_was_run_again",
        "pg_control comes before the settings"),
    plant("f1", "asof-sim", "s3", "hz_f1_an_upload_that_is_reported_as_done_is_not_believed",
        "an upload is not confirmed"),
    plant("f2", "asof-sim", "crash_points", "hz_f2_an_object_is_there_whole_or_not_at_all_whenever_the_power_goes",
        "the directory of a new object is not synced"),
    plant("f3", "asof-sim", "crash_points",
        "hz_f3_what_a_store_says_of_a_creation_is_true_after_every_sync_that_failed",
        "a failed sync is tried again and believed"),
    engine("f4", "hz_f4_nothing_is_believed_or_deleted_because_of_a_listing",
        "a journal ends where the listing does"),
    plant("f5", "asof-sim", "s3", "hz_f5_a_store_that_ignores_create_if_absent_is_refused_without_a_single_writer",
        "what the probe found is ignored"),
    plant("f6", "asof-repository", LIB, "hz_f6_a_bit_that_the_compressor_got_wrong_is_never_stored",
        "what was compressed is not compared"),
    plant("l1", "asof-engine", "logical",
        "hz_l1_whatever_pg_dump_makes_of_its_exit_status_a_dump_that_is_not_whole_is_none",
        "what came is not held against the database"),
    plant("l2", "asof-engine", "logical", "hz_l2_a_load_that_is_interrupted_anywhere_leaves_the_server_as_it_was",
        "a database has its own name while it is loaded"),
    plant("l3", "asof-engine", "logical", "hz_l3_a_dump_that_only_its_table_of_contents_proves_is_not_whole",
        "the table of contents is read and nothing else"),
    plant("l4", "asof-engine", "compare", "hz_l4_one_changed_value_is_found_and_its_key_named",
        "digests are not compared"),
    plant("l5", "asof-engine", "logical",
        "hz_l5_a_script_that_leaves_the_database_it_is_loaded_into_changes_nothing",
        "a script is given to psql as it stands"),
    plant("l6", "asof-cli", "runbook", "hz_l6_a_load_that_is_killed_commits_nothing",
        "psql commits when its input ends"),
];
