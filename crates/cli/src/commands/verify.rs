//! `asof verify`: every stored byte of a dump is read and decoded.

use asof_engine::logical::{self, Proof, VerifyReport};
use serde_json::json;

use crate::args::Verify;
use crate::commands::dump::interruptible;
use crate::commands::origin::{Named, named};
use crate::context::Context;
use crate::failure::Result;
use crate::show::{self, bytes, duration};

pub(crate) async fn run(context: &Context, args: Verify) -> Result<()> {
    let dump = named(context, &args.dump, args.instance.as_deref(), args.password_file.as_deref()).await?;
    let bar = context.bar();
    let verified = match &dump {
        Named::Stored { instance, backup } => {
            interruptible(logical::verify_stored(&instance.shelf, backup, bar.as_ref())).await
        }
        Named::File(origin) => interruptible(logical::verify(origin, bar.as_ref())).await,
    };
    bar.finish();
    let report = verified?;
    if args.json {
        let mut value = json!(report);
        value["elapsed_seconds"] = json!(report.elapsed.as_secs_f64());
        show::json(&value);
    } else {
        print_report(&report);
    }
    Ok(())
}

fn print_report(report: &VerifyReport) {
    anstream::println!("{} is whole", report.dump);
    anstream::println!("  read    {}, all of it decoded, in {}", bytes(report.bytes), duration(report.elapsed));
    let rows = report.rows.map_or_else(String::new, |rows| format!(", {rows} rows"));
    anstream::println!("  holds   {} tables{rows}, {} large objects", report.tables, report.large_objects);
    let proof = match report.proof {
        Proof::Authenticated => "every byte is authenticated by the repository",
        Proof::Recorded => "every byte has the SHA-256 that was recorded beside it",
        Proof::Checksums => "its compressed data has checksums",
        Proof::FormOnly => "nothing but its form",
    };
    anstream::println!("  proof   {proof}");
    if report.held_against_record {
        anstream::println!("  rows    of every table as many as were recorded");
    }
    report.remarks.iter().for_each(|remark| anstream::eprintln!("warning: {remark}"));
}
