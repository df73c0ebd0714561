//! The roles and extensions that a dump names: a throw-away server must have them before the dump is loaded.
//!
//! SQL is looked at line by line, not parsed. A role too many does no harm in a server that is thrown away, so every place where
//! `pg_dump` writes a role counts, and rows that look like such a statement may count as well.

use std::collections::BTreeSet;

use asof_postgres::archive::toc::Toc;

/// Longer lines are rows.
const LINE_LEN: usize = 8 << 10;
/// More roles than this are not a person's.
const MOST_ROLES: usize = 10_000;

/// Objects that only a superuser may own (`ALTER … OWNER TO`, 13 to 18).
const OWNED_BY_SUPERUSERS: [&[u8]; 3] = [b"EVENT TRIGGER", b"SUBSCRIPTION", b"FOREIGN DATA WRAPPER"];

/// What a dump names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Mentions {
    pub(super) roles: BTreeSet<String>,
    /// Those among the roles that own what only a superuser may own.
    pub(super) superusers: BTreeSet<String>,
    pub(super) extensions: BTreeSet<String>,
}

impl Mentions {
    /// Of an archive.
    pub(super) fn of_archive(toc: &Toc) -> Self {
        let mut found = Self::default();
        for entry in &toc.entries {
            let desc = entry.desc.as_bytes();
            if desc == b"EXTENSION" {
                found.extensions.insert(entry.tag.to_lossy());
            }
            let owner = entry.owner.as_ref().map(|owner| owner.to_lossy()).filter(|owner| !owner.is_empty());
            if OWNED_BY_SUPERUSERS.contains(&desc) {
                found.superusers.extend(owner.clone());
            }
            found.roles.extend(owner);
            let names_roles = desc.ends_with(b"ACL")
                || [&b"POLICY"[..], b"ROW SECURITY", b"USER MAPPING", b"DATABASE PROPERTIES"].contains(&desc);
            if let Some(definition) = entry.definition.as_ref().filter(|_| names_roles) {
                definition.to_lossy().lines().for_each(|line| found.line(line));
            }
        }
        found.without_built_in()
    }

    /// One line of a script.
    fn line(&mut self, line: &str) {
        let begins = |words: &[&str]| words.iter().any(|word| line.starts_with(word));
        if let Some(rest) = line.strip_prefix("CREATE EXTENSION ") {
            self.extensions.extend(identifiers(rest.trim_start_matches("IF NOT EXISTS ")));
            return;
        }
        let known =
            begins(&["GRANT ", "REVOKE ", "ALTER ", "CREATE POLICY ", "CREATE USER MAPPING ", "SET SESSION AUTH"]);
        if !known || self.roles.len() >= MOST_ROLES {
            return;
        }
        let mut places: Vec<&str> = Vec::new();
        for word in [" OWNER TO ", " FOR ROLE ", "ALTER ROLE ", "SET SESSION AUTHORIZATION ", "USER MAPPING FOR "] {
            places.extend(line.split_once(word).map(|(_, rest)| rest));
        }
        if begins(&["GRANT ", "REVOKE ", "ALTER DEFAULT", "CREATE POLICY "]) {
            places.extend([" TO ", " FROM "].iter().filter_map(|word| Some(line.rsplit_once(word)?.1)));
        }
        let named: BTreeSet<String> = places.into_iter().flat_map(identifiers).collect();
        if begins(&["ALTER EVENT TRIGGER ", "ALTER SUBSCRIPTION ", "ALTER FOREIGN DATA WRAPPER "]) {
            self.superusers.extend(named.iter().cloned());
        }
        self.roles.extend(named);
    }

    /// Roles that every server has, and words that stand where a role could.
    fn without_built_in(mut self) -> Self {
        let words = ["PUBLIC", "CURRENT_USER", "SESSION_USER", "CURRENT_ROLE", "DEFAULT", "public"];
        self.roles.retain(|role| !role.is_empty() && !role.starts_with("pg_") && !words.contains(&role.as_str()));
        self
    }
}

/// The names at the beginning of a text, separated by commas.
pub(super) fn identifiers(text: &str) -> Vec<String> {
    let (mut names, mut rest) = (Vec::new(), text);
    loop {
        let (name, behind) = identifier(rest);
        names.extend(name);
        match behind.strip_prefix(", ") {
            Some(more) => rest = more,
            None => return names,
        }
    }
}

/// The name at the beginning of a text, and what follows it.
fn identifier(text: &str) -> (Option<String>, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', ';', ',', ')']).unwrap_or(text.len());
        return (Some(text[..end].to_owned()).filter(|name| !name.is_empty()), &text[end..]);
    };
    let (mut name, mut rest) = (String::new(), quoted);
    while let Some((piece, behind)) = rest.split_once('"') {
        name.push_str(piece);
        let Some(more) = behind.strip_prefix('"') else { return (Some(name), behind) };
        name.push('"');
        rest = more;
    }
    (None, "")
}

/// What follows a name, or a name within a schema, at the beginning of a text.
pub(super) fn without_name(text: &str) -> &str {
    let mut rest = text;
    loop {
        rest = match rest.starts_with('"') {
            true => identifier(rest).1,
            false => &rest[rest.find([' ', ';', '.']).unwrap_or(rest.len())..],
        };
        match rest.strip_prefix('.') {
            Some(more) => rest = more,
            None => return rest,
        }
    }
}

/// Looks for mentions in a script that comes in pieces.
#[derive(Default)]
pub(super) struct MentionScanner {
    found: Mentions,
    line: Vec<u8>,
    too_long: bool,
}

impl MentionScanner {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            self.too_long |= self.line.len() + text.len() > LINE_LEN;
            if !self.too_long {
                self.line.extend_from_slice(text);
            }
            if ends {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        // Only statements begin with a capital letter and a word that is known; most rows are passed over here.
        let candidate = !self.too_long && matches!(self.line.first(), Some(b'A' | b'C' | b'G' | b'R' | b'S'));
        if let (true, Ok(line)) = (candidate, std::str::from_utf8(&self.line)) {
            self.found.line(line);
        }
        self.line.clear();
        self.too_long = false;
    }

    pub(super) fn finish(mut self) -> Mentions {
        self.end_line();
        self.found.without_built_in()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_where_a_script_names_a_role_or_an_extension_counts() {
        let script = "CREATE EXTENSION IF NOT EXISTS \"uuid-ossp\" WITH SCHEMA public;\n\
            ALTER TABLE public.t OWNER TO \"o \"\"w\";\nGRANT SELECT ON TABLE t TO reader WITH GRANT OPTION;\n\
            REVOKE ALL ON SCHEMA s FROM PUBLIC;\nSET SESSION AUTHORIZATION grantor;\n\
            ALTER DEFAULT PRIVILEGES FOR ROLE maker IN SCHEMA s GRANT SELECT ON TABLES TO taker;\n\
            CREATE POLICY mine ON t FOR SELECT TO one, two USING (true);\nCREATE USER MAPPING FOR mapped SERVER far;\n\
            ALTER EVENT TRIGGER e OWNER TO super;\nGRANT pg_read_all_data TO x\nCOPY a FROM stdin;\nlower to nobody;\n";
        let mut scanner = MentionScanner::default();
        script.as_bytes().chunks(7).for_each(|piece| scanner.push(piece));
        let found = scanner.finish();
        let roles: Vec<&str> = found.roles.iter().map(String::as_str).collect();
        assert_eq!(roles, ["grantor", "maker", "mapped", "o \"w", "one", "reader", "super", "taker", "two", "x"]);
        assert_eq!(found.superusers, BTreeSet::from(["super".to_owned()]));
        assert_eq!(found.extensions, BTreeSet::from(["uuid-ossp".to_owned()]));
    }
}
