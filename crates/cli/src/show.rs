//! Words and tables: how sizes, durations and times are written, one printer for every list, one progress bar.

use std::fmt::Write;
use std::sync::Mutex;
use std::time::Duration;

use asof_engine::progress::{Event, Observer};
use asof_engine::time::rfc3339;
use asof_world::Timestamp;
use comfy_table::{ContentArrangement, Table, TableStyle};
use indicatif::{HumanDuration, ProgressBar, ProgressState, ProgressStyle};

/// What WAL in a spool is worth (rule 7).
pub(crate) const SPOOL_SURVIVES: &str = "survives the loss of the primary, not of this host";

/// Bytes with a binary unit.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    #[allow(clippy::cast_precision_loss)] // for people
    let mut value = count as f64;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// A duration such as `3.4 s`, `2 min 5 s`, `1 h 3 min`.
pub(crate) fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{:.1} s", time.as_secs_f64()),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// A time in UTC to the second.
pub(crate) fn time(micros: i64) -> String {
    rfc3339(Timestamp(micros.div_euclid(1_000_000) * 1_000_000))
}

/// The first whole second that is not before a moment: what a person types as the target of a restore must not lie before it.
pub(crate) fn time_from(micros: i64) -> String {
    time(micros.saturating_add(999_999))
}

/// A time for programs, as exact as it is known.
pub(crate) fn exact(micros: i64) -> String {
    rfc3339(Timestamp(micros))
}

/// Prints a table with a heading line.
pub(crate) fn table(headings: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
    let mut table = Table::new();
    table
        .load_style(TableStyle::new())
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(headings.to_vec());
    rows.into_iter().for_each(|row| {
        table.add_row(row);
    });
    for line in table.lines() {
        anstream::println!("{}", line.trim());
    }
}

/// Prints JSON.
pub(crate) fn json(value: &serde_json::Value) {
    anstream::println!("{}", serde_json::to_string_pretty(value).expect("JSON can be written"));
}

/// Progress on a terminal as a bar, elsewhere as lines; nothing when quiet.
pub(crate) struct Bar {
    bar: Mutex<ProgressBar>,
    terminal: bool,
    quiet: bool,
}

impl Bar {
    pub(crate) fn new(quiet: bool) -> Self {
        use std::io::IsTerminal;
        let terminal = !quiet && std::io::stderr().is_terminal();
        Self { bar: Mutex::new(ProgressBar::hidden()), terminal, quiet }
    }

    fn say(&self, line: &str) {
        let bar = self.bar.lock().expect("no holder panics");
        bar.suspend(|| anstream::eprintln!("{line}"));
    }

    /// Removes the bar.
    pub(crate) fn finish(&self) {
        self.bar.lock().expect("no holder panics").finish_and_clear();
    }

    fn phase(&self, name: &'static str) {
        if !self.terminal {
            return self.say(&format!("{name} …"));
        }
        let mut bar = self.bar.lock().expect("no holder panics");
        bar.finish_and_clear();
        *bar = ProgressBar::new_spinner().with_message(name);
        bar.enable_steady_tick(Duration::from_millis(120));
    }

    fn expect(&self, bytes: u64) {
        let bar = self.bar.lock().expect("no holder panics");
        if self.terminal {
            let form = "{msg} [{bar:30}] {bytes}/{total_bytes} {binary_bytes_per_sec}{left}";
            let style = ProgressStyle::with_template(form).expect("a valid template").with_key("left", left);
            bar.set_style(style.progress_chars("=> "));
            bar.set_length(bytes);
        }
    }
}

/// How long it will take; nothing at the beginning, when a guess would be far from it.
fn left(state: &ProgressState, to: &mut dyn Write) {
    if state.len().is_some_and(|len| state.pos() > len / 20) {
        // A terminal that cannot be written to is noticed elsewhere.
        let _ = write!(to, " {:#} left", HumanDuration(state.eta()));
    }
}

impl Observer for Bar {
    fn event(&self, event: Event) {
        match event {
            Event::Warning(text) => self.say(&format!("warning: {text}")),
            _ if self.quiet => {}
            Event::Phase(name) => self.phase(name),
            Event::Expect(bytes) => self.expect(bytes),
            Event::Advance(bytes) => self.bar.lock().expect("no holder panics").inc(bytes),
            Event::At(name) => self.bar.lock().expect("no holder panics").set_message(name),
            Event::Note(text) => self.say(&text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_from_which_something_holds_is_rounded_up() {
        assert_eq!(time(1_500_000), "1970-01-01T00:00:01Z");
        assert_eq!([time_from(1_500_000), time_from(2_000_000)], ["1970-01-01T00:00:02Z"; 2]);
        assert_eq!(exact(1_500_000), "1970-01-01T00:00:01.5Z");
    }

    #[test]
    fn sizes_and_durations_read_like_a_person_writes_them() {
        assert_eq!([bytes(0), bytes(1023), bytes(1536), bytes(5 << 30)], ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]);
        assert_eq!(duration(Duration::from_millis(3400)), "3.4 s");
        assert_eq!(duration(Duration::from_secs(125)), "2 min 5 s");
        assert_eq!(duration(Duration::from_secs(3780)), "1 h 3 min");
    }
}
