//! How far a program is with files that it opens by itself: it says so with `--verbose`.

use std::collections::HashMap;

use futures::StreamExt;
use futures::channel::mpsc::UnboundedReceiver;

use crate::progress::{Event, Observer};

/// What stands before the name of a table that begins (`dumpTableData_copy` of pg_dump.c, `restore_toc_entry` of
/// pg_backup_archiver.c, 13 to 18).
const BEGINNINGS: [&str; 2] = ["dumping contents of table \"", "processing data for table \""];

/// Passes on what a program says, until it says no more. `sizes` are those of its tables by schema and name, as far as they are
/// known.
pub(super) async fn tell<'a>(
    mut said: UnboundedReceiver<String>,
    sizes: impl Iterator<Item = ((&'a str, &'a str), u64)>,
    jobs: usize,
    observer: &dyn Observer,
) {
    let sizes: HashMap<String, u64> = sizes.map(|((schema, name), size)| (format!("{schema}.{name}"), size)).collect();
    let total: u64 = sizes.values().sum();
    if total > 0 {
        observer.event(Event::Expect(total));
    }
    let advance = |tables: Vec<String>| {
        let done = tables.iter().filter_map(|table| sizes.get(table)).sum();
        observer.event(Event::Advance(done));
    };
    let mut begun: Vec<String> = Vec::new();
    while let Some(line) = said.next().await {
        if let Some(table) = begins(&line) {
            // Only several processes say that a table is done.
            if jobs == 1 {
                advance(std::mem::take(&mut begun));
            }
            observer.event(Event::At(table.to_owned()));
            begun.push(table.to_owned());
        } else if let Some(name) = ends(&line) {
            let is_it = |table: &String| table.strip_suffix(name).is_some_and(|schema| schema.ends_with('.'));
            advance(begun.iter().position(is_it).map(|at| begun.remove(at)).into_iter().collect());
            begun.last().into_iter().for_each(|table| observer.event(Event::At(table.clone())));
        }
    }
    advance(begun);
}

/// `public.orders` of `pg_restore: processing data for table "public.orders"`.
fn begins(line: &str) -> Option<&str> {
    let behind = BEGINNINGS.iter().find_map(|beginning| Some(line.split_once(beginning)?.1))?;
    behind.strip_suffix('"')
}

/// `orders` of `pg_restore: finished item 3456 TABLE DATA orders` (`mark_restore_job_done` of pg_backup_archiver.c, 13 to 18).
fn ends(line: &str) -> Option<&str> {
    Some(line.split_once(": finished item ")?.1.split_once(" TABLE DATA ")?.1)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures::channel::mpsc::unbounded;

    use super::*;

    #[derive(Default)]
    struct Seen(Mutex<Vec<Event>>);

    impl Observer for Seen {
        fn event(&self, event: Event) {
            self.0.lock().expect("no holder panics").push(event);
        }
    }

    async fn told(lines: &[&str], jobs: usize) -> Vec<Event> {
        let (to, said) = unbounded();
        for line in lines {
            to.unbounded_send((*line).to_owned()).expect("it is received");
        }
        drop(to);
        let (seen, sizes) = (Seen::default(), [(("a", "small"), 1), (("a", "\"odd\" one"), 20)]);
        tell(said, sizes.into_iter(), jobs, &seen).await;
        seen.0.into_inner().expect("no holder panics")
    }

    fn at(name: &str) -> Event {
        Event::At(name.to_owned())
    }

    #[tokio::test]
    async fn by_one_process_a_table_is_done_when_the_next_begins() {
        let lines = [
            "pg_restore: connecting to database for restore",
            "pg_restore: processing data for table \"a.small\"",
            "pg_dump: dumping contents of table \"a.\"odd\" one\"",
            "pg_restore: processing data for table \"a.unknown\"",
        ];
        let [zero, one, twenty] = [0, 1, 20].map(Event::Advance);
        let expected =
            [Event::Expect(21), zero.clone(), at("a.small"), one, at("a.\"odd\" one"), twenty, at("a.unknown"), zero];
        assert_eq!(told(&lines, 1).await, expected);
    }

    #[tokio::test]
    async fn by_several_processes_a_table_is_done_when_they_say_so() {
        let lines = [
            "pg_restore: processing data for table \"a.\"odd\" one\"",
            "pg_restore: processing data for table \"a.small\"",
            "pg_restore: finished item 12 TABLE DATA small",
            "pg_restore: finished item 14 INDEX small",
        ];
        let [one, twenty] = [1, 20].map(Event::Advance);
        let odd = at("a.\"odd\" one");
        assert_eq!(told(&lines, 2).await, [Event::Expect(21), odd.clone(), at("a.small"), one, odd, twenty]);
    }
}
