//! Times as people and PostgreSQL write them.

use asof_world::Timestamp;
use jiff::tz::TimeZone;

/// RFC 3339 in UTC with microseconds as far as they are not zero: `2026-11-20T03:15:27.25Z`.
pub fn rfc3339(time: Timestamp) -> String {
    jiff::Timestamp::from_microsecond(time.0).map_or_else(|_| format!("{} µs", time.0), |time| time.to_string())
}

/// `YYYYMMDD-HHMMSS` in UTC, for names.
pub fn compact(time: Timestamp) -> String {
    let zoned = jiff::Timestamp::from_microsecond(time.0).map(|time| time.to_zoned(TimeZone::UTC));
    zoned.map_or_else(|_| time.0.to_string(), |zoned| zoned.strftime("%Y%m%d-%H%M%S").to_string())
}

/// Parses RFC 3339 with an offset or `Z`. A time without one is refused: it would mean another moment on another machine
/// (hazard E3).
pub fn parse(text: &str) -> Result<Timestamp, String> {
    match text.trim().parse::<jiff::Timestamp>() {
        Ok(time) => Ok(Timestamp(time.as_microsecond())),
        Err(_) if asof_world::planted("e3") => parse(&format!("{text}Z")),
        Err(_) if text.trim().parse::<jiff::civil::DateTime>().is_ok() => Err(format!(
            "\"{text}\" has no time zone; write it with an offset, such as {}Z or {}+02:00",
            text.trim(),
            text.trim()
        )),
        Err(error) => Err(format!("\"{text}\" is not a time like 2026-11-20T10:30:00+01:00: {error}")),
    }
}
