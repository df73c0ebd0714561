//! Passphrases of the repository: asked for on a terminal, without echo, or read where nobody can be asked.

use std::io::Read;

use crate::config::Loaded;
use crate::context::{on_a_terminal, read_secret};
use crate::failure::{Failure, Result};

/// The shortest that is accepted. Whoever copies the repository tries as many as he can pay for, each a second on one processor
/// (scrypt): NIST SP 800-63B-4 asks 15 characters of a password that stands alone.
const SHORTEST: usize = 15;

/// More than anybody types.
const LONGEST: u64 = 4096;

/// The passphrase that opens the configured repository.
pub(crate) fn of_repository(loaded: &Loaded) -> Result<String> {
    if let Some(path) = &loaded.config.repository.passphrase_file {
        let text = read_secret("passphrase file", path, "put it back, or remove passphrase_file to be asked")?;
        return one_line(&text, &path.display().to_string());
    }
    if !on_a_terminal() {
        let what =
            format!("{} names no key_file, and nobody is there to be asked for a passphrase", loaded.path.display());
        return Err(Failure::refused(
            what,
            "name a key_file or a passphrase_file under [repository], or use a terminal",
        ));
    }
    ask(&format!("Passphrase of {}: ", loaded.config.repository.url))
}

/// A new one: typed twice, or the one line of standard input.
pub(crate) fn chosen() -> Result<String> {
    if !on_a_terminal() {
        let mut text = String::new();
        let read = std::io::stdin().lock().take(LONGEST).read_to_string(&mut text);
        read.map_err(Failure::file("read", "standard input"))?;
        return strong(one_line(&text, "standard input")?);
    }
    let first = strong(ask("New passphrase: ")?)?;
    if ask("Once more: ")? != first {
        return Err(Failure::refused("the two passphrases differ", "nothing was added: try again"));
    }
    Ok(first)
}

fn ask(prompt: &str) -> Result<String> {
    rpassword::prompt_password(prompt).map_err(Failure::file("read", "the terminal"))
}

/// Spaces count, the end of the line does not.
fn one_line(text: &str, place: &str) -> Result<String> {
    let mut lines = text.lines();
    match (lines.next(), lines.next()) {
        (Some(line), None) if !line.is_empty() => Ok(line.to_owned()),
        (Some(_), Some(_)) => {
            Err(Failure::refused(format!("{place} holds more than one line"), "a passphrase is one line"))
        }
        _ => Err(Failure::refused(format!("{place} holds no passphrase"), "it is one line")),
    }
}

fn strong(passphrase: String) -> Result<String> {
    let found = passphrase.chars().count();
    if found >= SHORTEST {
        return Ok(passphrase);
    }
    let hint = format!("take at least {SHORTEST}, for example five words that have nothing to do with each other");
    Err(Failure::refused(format!("a passphrase of {found} characters can be guessed"), hint))
}
