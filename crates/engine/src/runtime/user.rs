//! Who a server runs as: PostgreSQL refuses to run as root.

use std::path::Path;

use asof_world::{Owner, World};

use crate::error::{Error, Result};

const PASSWD: &str = "/etc/passwd";
const PASSWD_BYTES: usize = 4 << 20;

/// The user of the operating system that a server runs as; never root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerUser {
    /// Its name; its number if it has none.
    pub name: String,
    /// Its ids.
    pub owner: Owner,
    /// Whether we have to become it, because we are root.
    pub switch: bool,
}

impl ServerUser {
    /// Who to run as. Without root's rights: ourselves. As root: `wanted`, else the owner of the original data directory,
    /// else `postgres`.
    ///
    /// # Errors
    /// `Refused` if the user does not exist, is root, or is not ourselves while we are not root.
    pub async fn choose(world: &World, wanted: Option<&str>, original: Option<Owner>) -> Result<Self> {
        let (files, processes) = (world.files.clone(), world.processes());
        let read =
            move || (processes.user(), super::places::read_text(files.as_ref(), Path::new(PASSWD), PASSWD_BYTES));
        let (ourselves, passwd) = world.blocking(read).await;
        choose(ourselves, &passwd.unwrap_or_default(), wanted, original)
    }

    /// The user to become when a program starts.
    pub(super) fn to_become(&self) -> Option<Owner> {
        self.switch.then_some(self.owner)
    }
}

fn choose(ourselves: Owner, passwd: &str, wanted: Option<&str>, original: Option<Owner>) -> Result<ServerUser> {
    if ourselves.uid != 0 {
        return stay(ourselves, passwd, wanted);
    }
    let by_name = |name: &str| users(passwd).find(|(known, _)| *known == name);
    let found = match wanted {
        Some(name) => by_name(name).ok_or_else(|| no_such_user(name))?,
        None => original
            .filter(|owner| owner.uid != 0)
            .and_then(|owner| users(passwd).find(|(_, known)| known.uid == owner.uid))
            .or_else(|| by_name("postgres"))
            .ok_or_else(|| no_such_user("postgres"))?,
    };
    if found.1.uid == 0 {
        let what = "PostgreSQL does not run as root";
        return Err(Error::refused(what, "name another user with --user, for example postgres"));
    }
    Ok(ServerUser { name: found.0.to_owned(), owner: found.1, switch: true })
}

fn stay(ourselves: Owner, passwd: &str, wanted: Option<&str>) -> Result<ServerUser> {
    let known = users(passwd).find(|(_, owner)| owner.uid == ourselves.uid);
    let name = known.map_or_else(|| ourselves.uid.to_string(), |(name, _)| name.to_owned());
    match wanted {
        Some(other) if other != name => {
            let what = format!("asof runs as {name} and cannot start a server as {other}");
            Err(Error::refused(what, format!("run asof as {other} or as root, or leave --user out")))
        }
        _ => Ok(ServerUser { name, owner: ourselves, switch: false }),
    }
}

fn no_such_user(name: &str) -> Error {
    let what = format!("there is no user {name} on this machine to run PostgreSQL as");
    Error::refused(what, "name one with --user, or install PostgreSQL, whose package makes the user postgres")
}

/// `name:password:uid:gid:…`, see passwd(5); lines that are none are passed over.
fn users(passwd: &str) -> impl Iterator<Item = (&str, Owner)> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        Some((name, Owner { uid: fields.nth(1)?.parse().ok()?, gid: fields.next()?.parse().ok()? }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "root:x:0:0::/:/bin/sh\n# no user\npostgres:x:101:104::/:/bin/sh\nann:x:1000:1000::/:/bin/sh\n";
    const ROOT: Owner = Owner { uid: 0, gid: 0 };
    const ANN: Owner = Owner { uid: 1000, gid: 1000 };

    fn check(ourselves: Owner, wanted: Option<&str>, original: Option<Owner>, expect: Result<(&str, bool), &str>) {
        let chosen = choose(ourselves, TEXT, wanted, original);
        match (chosen, expect) {
            (Ok(user), Ok(expect)) => assert_eq!((user.name.as_str(), user.switch), expect),
            (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{error}"),
            (chosen, expect) => panic!("{chosen:?}, not {expect:?}"),
        }
    }

    #[test]
    fn root_becomes_the_named_user_else_the_owner_else_postgres() {
        check(ROOT, Some("ann"), None, Ok(("ann", true)));
        check(ROOT, None, Some(ANN), Ok(("ann", true)));
        check(ROOT, None, Some(Owner { uid: 77, gid: 77 }), Ok(("postgres", true)));
        check(ROOT, None, Some(ROOT), Ok(("postgres", true)));
        check(ROOT, None, None, Ok(("postgres", true)));
    }

    #[test]
    fn a_user_that_is_missing_or_root_is_refused() {
        check(ROOT, Some("bob"), None, Err("no user bob"));
        check(ROOT, Some("root"), None, Err("does not run as root"));
        let nobody = choose(ROOT, "", None, None);
        assert!(nobody.is_err_and(|error| error.to_string().contains("no user postgres")));
    }

    #[test]
    fn anybody_else_stays_who_they_are() {
        check(ANN, None, Some(ROOT), Ok(("ann", false)));
        check(ANN, Some("ann"), None, Ok(("ann", false)));
        check(Owner { uid: 5, gid: 5 }, None, None, Ok(("5", false)));
        check(ANN, Some("postgres"), None, Err("cannot start a server as postgres"));
    }
}
