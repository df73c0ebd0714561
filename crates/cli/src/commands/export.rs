//! `asof export`: a logical backup as a stock file, outside of the repository.

use std::path::PathBuf;

use asof_engine::logical::{self, ExportReport, Origin, Outside};
use asof_engine::restore::find;
use asof_repository::store::s3::S3Store;
use serde_json::json;

use crate::args::Export;
use crate::commands::dump::interruptible;
use crate::context::{Context, variable};
use crate::failure::{Failure, Result};
use crate::show::{self, bytes};

pub(crate) async fn run(context: &Context, args: Export) -> Result<()> {
    let instance = context.instance(args.instance.as_deref()).await?;
    let journal = instance.shelf.journal().await?;
    let backup = find(&journal.state().existing(), &args.dump)?.backup.clone();
    let origin = Origin::stored(&instance.shelf, &backup).await?;
    let bar = context.bar();
    let exported = match args.to.strip_prefix("s3://") {
        Some(_) => {
            let (url, name) = split(&args.to)?;
            let store = S3Store::new(context.world.clone(), &url, variable)?;
            let out = Outside::Store(&store, &name);
            interruptible(logical::export(&origin, out, bar.as_ref())).await
        }
        None => {
            refuse_no_file(&args.to)?;
            let path = PathBuf::from(&args.to);
            let path = std::path::absolute(&path).map_err(Failure::file("find", &path))?;
            interruptible(logical::export(&origin, Outside::File(&path), bar.as_ref())).await
        }
    };
    bar.finish();
    report(&args, &exported?);
    Ok(())
}

/// What looks like something else than a file, and would become one.
fn refuse_no_file(to: &str) -> Result<()> {
    if to == "-" {
        let what = "an export is written under a name that it gets when it is whole, and not to standard output";
        return Err(Failure::refused(what, "name a file or s3://BUCKET/NAME.dump; ./- is the file of that name"));
    }
    match to.split_once("://") {
        Some((scheme, _)) if scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c)) => {
            let what = format!("nothing is exported to {scheme}://");
            Err(Failure::refused(what, "name a file, or s3://BUCKET/PREFIX/NAME.dump"))
        }
        _ => Ok(()),
    }
}

/// `s3://bucket/a/b.dump?region=…` is the object `b.dump` in `s3://bucket/a?region=…`.
fn split(url: &str) -> Result<(String, String)> {
    let (place, options) = url.split_once('?').unwrap_or((url, ""));
    let (above, name) = place.rsplit_once('/').unwrap_or((place, ""));
    if name.is_empty() || above == "s3:/" {
        let what = format!("{url} does not name an object");
        return Err(Failure::refused(what, "write s3://BUCKET/PREFIX/NAME.dump"));
    }
    let question = if options.is_empty() { "" } else { "?" };
    Ok((format!("{above}{question}{options}"), name.to_owned()))
}

fn report(args: &Export, report: &ExportReport) {
    if args.json {
        show::json(&json!({ "names": report.names, "bytes": report.bytes, "sha256": report.sha256 }));
        return;
    }
    let [name, beside @ ..] = report.names.as_slice() else { return };
    anstream::println!("exported {name} ({})", bytes(report.bytes));
    beside.iter().for_each(|name| anstream::println!("  beside  {name}"));
    anstream::println!("  not encrypted: whoever can read it can read the data");
}

#[cfg(test)]
mod tests {
    use super::{refuse_no_file, split};

    #[test]
    fn only_a_file_is_taken_for_one() {
        let ok = |to: &str| refuse_no_file(to).is_ok();
        assert_eq!(
            ["x", "./-", "a/b:c", "-", "http://x/y", "gs://b/n"].map(ok),
            [true, true, true, false, false, false]
        );
    }

    #[test]
    fn the_name_of_an_object_is_the_last_part_of_its_url() {
        let ok = |url: &str| split(url).map_err(|error| error.to_string());
        assert_eq!(ok("s3://b/x/y.dump?region=r"), Ok(("s3://b/x?region=r".to_owned(), "y.dump".to_owned())));
        assert_eq!(ok("s3://b/y.dump"), Ok(("s3://b".to_owned(), "y.dump".to_owned())));
        assert!(ok("s3://b/").is_err() && ok("s3://b").is_err());
    }
}
