//! A dump as a database that can be looked at: the first half of a drill.

use std::sync::Arc;

use asof_world::World;
use futures::future::{BoxFuture, Either, select};

use super::super::clients::Clients;
use super::super::origin::Origin;
use super::{DATABASE, Drill, DrillRequest, Subject};
use crate::error::{Error, Result, in_one_line};
use crate::progress::{Event, Observer};
use crate::runtime::Scratch;
use crate::server::Server;

/// A dump that is loaded into a throw-away server. Whoever is done with it removes it.
pub struct Unpacked {
    scratch: Scratch,
    /// What the operator should know.
    pub remarks: Vec<String>,
}

impl Unpacked {
    /// Its database.
    ///
    /// # Errors
    /// As [`Scratch::server`].
    pub fn server(&self) -> Result<Server> {
        self.scratch.server(DATABASE)
    }

    /// Ends the server and removes everything of it.
    ///
    /// # Errors
    /// As [`Scratch::remove`].
    pub async fn remove(self) -> Result<()> {
        self.scratch.remove().await
    }
}

/// Decodes a dump to its end, holds it against its record, and loads it into a throw-away server, unless `cancelled` completes
/// before.
///
/// # Errors
/// As [`drill`](super::drill), and whatever is wrong with the dump. Nothing of the server is left then.
pub async fn unpack(
    world: &World,
    clients: &Clients,
    origin: Origin,
    request: &DrillRequest,
    cancelled: BoxFuture<'_, ()>,
    observer: Arc<dyn Observer>,
) -> Result<Unpacked> {
    let mut drill = Drill::new(world, clients, request, observer.clone());
    let subject = Subject::Dump(Box::new(origin));
    let loaded = match select(Box::pin(drill.loaded(subject)), cancelled).await {
        Either::Left((loaded, _)) => loaded.map(|_| ()),
        Either::Right(((), _)) => Err(Error::Interrupted),
    };
    match loaded {
        Ok(()) => {
            let Drill { report, scratch, .. } = drill;
            Ok(Unpacked { scratch: scratch.expect("what was loaded has a server"), remarks: report.remarks })
        }
        Err(error) => {
            if let Err(left) = drill.clear_up().await {
                let place = request.directory.display();
                observer.event(Event::Warning(format!("{place} is left behind: {}", in_one_line(&left))));
            }
            Err(error)
        }
    }
}
