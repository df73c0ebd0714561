//! The two grammars of a connection string: `key = 'value'` pairs, and `postgresql://` URIs.
//! Source: "Connection Strings" (libpq chapter), PostgreSQL 18.

use super::error::ConninfoError;
use super::settings::Settings;

/// Reads a connection string of either grammar.
pub(super) fn parse(text: &str) -> Result<Settings, ConninfoError> {
    let scheme = ["postgresql://", "postgres://"].into_iter().find_map(|scheme| text.strip_prefix(scheme));
    match scheme {
        Some(rest) => parse_uri(rest),
        None => parse_pairs(text),
    }
}

fn syntax(reason: impl Into<String>) -> ConninfoError {
    ConninfoError::Syntax { reason: reason.into() }
}

fn parse_pairs(text: &str) -> Result<Settings, ConninfoError> {
    let mut settings = Settings::default();
    let mut rest = text.trim_start_matches(blank);
    while !rest.is_empty() {
        let (key, after) = take_key(rest)?;
        let (value, after) = take_value(after)?;
        settings.set(key, value)?;
        rest = after.trim_start_matches(blank);
    }
    Ok(settings)
}

/// What C's `isspace` calls a space: Unicode blanks belong to values.
fn blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

fn take_key(text: &str) -> Result<(&str, &str), ConninfoError> {
    let end = text.find(|c| c == '=' || blank(c)).unwrap_or(text.len());
    let (key, after) = text.split_at(end);
    let after = after.trim_start_matches(blank);
    let Some(value) = after.strip_prefix('=') else {
        return Err(syntax(format!("missing \"=\" after \"{key}\"")));
    };
    Ok((key, value.trim_start_matches(blank)))
}

/// A value is bare (up to the next blank) or stands in single quotes; a backslash takes the next character as it is in both.
fn take_value(text: &str) -> Result<(String, &str), ConninfoError> {
    let (quoted, body) = match text.strip_prefix('\'') {
        Some(body) => (true, body),
        None => (false, text),
    };
    let mut value = String::new();
    let mut characters = body.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Ok((value, &body[at + 1..])),
            c if !quoted && blank(c) => return Ok((value, &body[at..])),
            c => value.push(c),
        }
    }
    if quoted { Err(syntax("a quoted value has no closing quote")) } else { Ok((value, "")) }
}

/// `[user[:password]@][host[:port][,…]][/dbname][?key=value[&…]]`, after the scheme.
fn parse_uri(text: &str) -> Result<Settings, ConninfoError> {
    let mut settings = Settings::default();
    let authority_end = text.find('/').unwrap_or(text.len());
    let rest = match text[..authority_end].find('@') {
        Some(at) => {
            set_user(&mut settings, &text[..at])?;
            &text[at + 1..]
        }
        None => text,
    };
    let (hosts, rest) = rest.split_at(hosts_end(rest)?);
    set_hosts(&mut settings, hosts)?;
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (rest, None),
    };
    set_decoded(&mut settings, "dbname", path.strip_prefix('/').unwrap_or(path))?;
    for pair in query.into_iter().filter(|query| !query.is_empty()).flat_map(|query| query.split('&')) {
        set_parameter(&mut settings, pair)?;
    }
    Ok(settings)
}

fn set_user(settings: &mut Settings, credentials: &str) -> Result<(), ConninfoError> {
    let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
    set_decoded(settings, "user", user)?;
    set_decoded(settings, "password", password)
}

fn set_decoded(settings: &mut Settings, key: &str, value: &str) -> Result<(), ConninfoError> {
    if value.is_empty() { Ok(()) } else { settings.set(key, decode(value)?) }
}

/// Where the host list ends: at the first `/` or `?` outside brackets.
fn hosts_end(text: &str) -> Result<usize, ConninfoError> {
    let mut bracket = false;
    for (at, c) in text.char_indices() {
        match c {
            '[' => bracket = true,
            ']' => bracket = false,
            '/' | '?' if !bracket => return Ok(at),
            _ => {}
        }
    }
    if bracket { Err(syntax("an IPv6 address in the URI has no closing \"]\"")) } else { Ok(text.len()) }
}

fn set_hosts(settings: &mut Settings, hosts: &str) -> Result<(), ConninfoError> {
    let pairs = hosts.split(',').map(split_host).collect::<Result<Vec<_>, _>>()?;
    if pairs.len() > 1 || pairs.iter().any(|(host, _)| !host.is_empty()) {
        let names = pairs.iter().map(|(host, _)| decode(host)).collect::<Result<Vec<_>, _>>()?;
        settings.set("host", names.join(","))?;
    }
    if pairs.iter().any(|(_, port)| !port.is_empty()) {
        let ports = pairs.iter().map(|(_, port)| decode(port)).collect::<Result<Vec<_>, _>>()?;
        settings.set("port", ports.join(","))?;
    }
    Ok(())
}

fn split_host(text: &str) -> Result<(&str, &str), ConninfoError> {
    let Some(inner) = text.strip_prefix('[') else {
        return Ok(text.split_once(':').unwrap_or((text, "")));
    };
    let (address, after) =
        inner.split_once(']').ok_or_else(|| syntax("an IPv6 address in the URI has no closing \"]\""))?;
    if address.is_empty() {
        return Err(syntax("an IPv6 address in the URI is empty"));
    }
    match after.strip_prefix(':') {
        Some(port) => Ok((address, port)),
        None if after.is_empty() => Ok((address, "")),
        None => Err(syntax("something other than a port follows an IPv6 address in the URI")),
    }
}

fn set_parameter(settings: &mut Settings, pair: &str) -> Result<(), ConninfoError> {
    let (key, value) = pair.split_once('=').ok_or_else(|| syntax("a parameter of the URI has no \"=\""))?;
    if value.contains('=') {
        return Err(syntax("a parameter of the URI has more than one \"=\" (write %3D)"));
    }
    let (key, value) = (decode(key)?, decode(value)?);
    // What JDBC URIs say for sslmode=require; libpq reads it so, too.
    if key == "ssl" && value == "true" { settings.set("sslmode", "require") } else { settings.set(&key, value) }
}

/// Percent decoding; `+` stays a plus.
fn decode(text: &str) -> Result<String, ConninfoError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        bytes.extend_from_slice(before.as_bytes());
        let digits = after.get(..2).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match byte {
            None => return Err(syntax("a \"%\" in the URI is not followed by two hexadecimal digits")),
            Some(0) => return Err(syntax("the URI contains %00")),
            Some(byte) => bytes.push(byte),
        }
        rest = &after[2..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8(bytes).map_err(|_| syntax("the URI is not UTF-8 after percent decoding"))
}
