//! The demo's database: a document chatbot's, with embeddings, and a writer that never rests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use asof_engine::server::Server;
use asof_world::{Task, Timestamp, World};

use crate::failure::Result;

/// What the writer waits between two commits.
const BETWEEN_COMMITS: Duration = Duration::from_millis(2);
/// Dimensions of an embedding, as of a small sentence model.
const DIMENSIONS: u32 = 384;
/// What one chunk with its embedding takes, roughly, in bytes.
const CHUNK_BYTES: u64 = 2300;

/// Makes tables of about `megabytes` and returns the real size.
pub(super) async fn fill(server: &Server, megabytes: u64) -> Result<u64> {
    let mut connection = server.connect().await?;
    let chunks = (megabytes << 20) / CHUNK_BYTES;
    let documents = (chunks / 20).max(1);
    let schema = "SET search_path = public; \
        CREATE TABLE documents (id bigint PRIMARY KEY, title text NOT NULL, created_at timestamptz NOT NULL DEFAULT now()); \
        CREATE TABLE chunks (id bigint PRIMARY KEY, document_id bigint NOT NULL REFERENCES documents, body text NOT NULL, \
          embedding real[] NOT NULL); \
        CREATE TABLE conversations (id bigint PRIMARY KEY, title text NOT NULL); \
        CREATE TABLE messages (id bigserial PRIMARY KEY, conversation_id bigint NOT NULL REFERENCES conversations, \
          number bigint NOT NULL, body text NOT NULL, created_at timestamptz NOT NULL DEFAULT now())";
    connection.execute(schema).await?;
    let rows = format!(
        "INSERT INTO documents SELECT g, 'Document ' || g FROM generate_series(1, {documents}) g; \
         INSERT INTO chunks SELECT g, 1 + g % {documents}, repeat(md5(g::text) || ' ', 15), e.embedding \
           FROM generate_series(1, {chunks}) g, \
           LATERAL (SELECT array_agg(random()::real) AS embedding FROM generate_series(1, {DIMENSIONS}) WHERE g > 0) e; \
         INSERT INTO conversations SELECT g, 'Conversation ' || g FROM generate_series(1, 100) g; \
         ANALYZE"
    );
    connection.execute(&rows).await?;
    let size = connection.query_one("SELECT pg_database_size(current_database())").await?.parse_required(0)?;
    connection.close().await;
    Ok(size)
}

/// The server's clock.
pub(super) async fn clock(server: &Server) -> Result<Timestamp> {
    let mut connection = server.connect().await?;
    let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
    let time = connection.query_one(sql).await?.parse_required(0)?;
    connection.close().await;
    Ok(Timestamp(time))
}

/// Drops the largest table and returns when.
pub(super) async fn accident(server: &Server) -> Result<Timestamp> {
    let time = clock(server).await?;
    let mut connection = server.connect().await?;
    connection.execute("DROP TABLE public.chunks").await?;
    connection.close().await;
    Ok(time)
}

/// What a table holds, whatever the order of its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Digest {
    pub(super) rows: u64,
    sum: String,
}

/// The content of every table of the schema `public`.
pub(super) async fn digests(server: &Server) -> Result<BTreeMap<String, Digest>> {
    let mut connection = server.connect().await?;
    let tables = connection.query("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").await?;
    let mut digests = BTreeMap::new();
    for table in tables {
        let table = table.required(0)?.to_owned();
        let sql =
            format!("SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) FROM public.{table} t");
        let row = connection.query_one(&sql).await?;
        let digest = Digest { rows: row.parse_required(0)?, sum: row.required(1)?.to_owned() };
        digests.insert(table, digest);
    }
    connection.close().await;
    Ok(digests)
}

#[derive(Default)]
struct Shared {
    committed: AtomicU64,
    paused: AtomicBool,
    resting: AtomicBool,
    stop: AtomicBool,
}

/// Commits numbered messages until it is stopped.
pub(super) struct Writer {
    world: World,
    shared: Arc<Shared>,
    running: Task<Result<()>>,
}

impl Writer {
    pub(super) fn start(world: World, server: Server) -> Self {
        let shared = Arc::new(Shared::default());
        let running = world.spawn(write(world.clone(), server, shared.clone()));
        Self { world, shared, running }
    }

    /// Returns when the writer rests: nothing is being committed.
    pub(super) async fn pause(&self) {
        self.shared.paused.store(true, Ordering::Release);
        while !self.shared.resting.load(Ordering::Acquire) && !self.shared.stop.load(Ordering::Acquire) {
            self.world.sleep(BETWEEN_COMMITS).await;
        }
    }

    pub(super) fn resume(&self) {
        self.shared.resting.store(false, Ordering::Release);
        self.shared.paused.store(false, Ordering::Release);
    }

    /// Stops and returns how many messages were committed.
    pub(super) async fn stop(self) -> Result<u64> {
        self.shared.stop.store(true, Ordering::Release);
        self.running.await?;
        Ok(self.shared.committed.load(Ordering::Acquire))
    }
}

async fn write(world: World, server: Server, shared: Arc<Shared>) -> Result<()> {
    let result = write_all(&world, &server, &shared).await;
    // Whoever waits for a pause must not wait for a writer that is gone.
    shared.stop.store(true, Ordering::Release);
    result
}

async fn write_all(world: &World, server: &Server, shared: &Shared) -> Result<()> {
    let mut connection = server.connect().await?;
    let sql = "INSERT INTO public.messages (conversation_id, number, body) VALUES (1 + $1::bigint % 100, $1::bigint, 'message ' || $1)";
    while !shared.stop.load(Ordering::Acquire) {
        if shared.paused.load(Ordering::Acquire) {
            shared.resting.store(true, Ordering::Release);
        } else {
            let number = shared.committed.load(Ordering::Acquire) + 1;
            connection.query_params(sql, &[Some(&number.to_string())]).await?;
            shared.committed.store(number, Ordering::Release);
        }
        world.sleep(BETWEEN_COMMITS).await;
    }
    connection.close().await;
    Ok(())
}
