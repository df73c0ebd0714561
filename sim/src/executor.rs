//! One thread, one seed, one order: the executor that the shipped code runs on in simulation.
//!
//! Each step runs one task that is ready, drawn by the seed. Work handed to threads of its own (files, computing) is a
//! task like any other: it runs in one piece, some time later. A step takes a microsecond of virtual time; when nothing
//! is ready, the clock jumps to the next timer. When there is no timer either, everybody waits for ever: that is a
//! deadlock, and the run ends with a panic that names the seed.
//!
//! A [`Process`] is a group of tasks that can be frozen (SIGSTOP), thawed and killed while others go on.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use asof_world::{Clock, Tasks, World};
use futures::future::BoxFuture;

use crate::{Prng, SimClock, SimFiles, SimRandom};

/// What one step costs.
const STEP: Duration = Duration::from_micros(1);
/// More steps than any scenario takes: a run that gets here goes round in circles.
const MOST_STEPS: u64 = 100_000_000;
/// The process that [`Simulation::run`] starts in.
const FIRST_PROCESS: u64 = 0;

/// A simulated machine.
pub struct Simulation {
    seed: u64,
    clock: Arc<SimClock>,
    files: SimFiles,
    random: Arc<SimRandom>,
    scheduler: Arc<Scheduler>,
}

impl Simulation {
    /// The machine of a seed, with an empty disk.
    pub fn new(seed: u64) -> Self {
        let clock = Arc::new(SimClock::new());
        let queue = Queue { draw: Prng::new(seed), ..Queue::default() };
        Self {
            seed,
            files: SimFiles::new().with_clock(clock.clone()),
            random: Arc::new(SimRandom::new(!seed)),
            scheduler: Arc::new(Scheduler { clock: clock.clone(), queue: Mutex::new(queue) }),
            clock,
        }
    }

    /// The same machine with a disk that holds something.
    #[must_use]
    pub fn with_files(mut self, files: &SimFiles) -> Self {
        self.files = files.with_clock(self.clock.clone());
        self
    }

    /// The seed that repeats this run.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The clock, to make it jump.
    pub fn clock(&self) -> &Arc<SimClock> {
        &self.clock
    }

    /// The disk, to make it fail.
    pub fn files(&self) -> &SimFiles {
        &self.files
    }

    /// The world of the first process.
    pub fn world(&self) -> World {
        self.world_of(FIRST_PROCESS, self.clock.clone())
    }

    /// A further process on this machine.
    pub fn process(&self) -> Process {
        let number = self.scheduler.lock().number();
        let clock = Arc::new(self.clock.beside());
        let world = self.world_of(number, clock.clone());
        Process { number, world, clock, scheduler: self.scheduler.clone() }
    }

    /// Runs `scenario` to its end; what it left running is dropped.
    ///
    /// # Panics
    /// When everything waits for something that will never happen, and when the scenario panics; the seed is printed.
    pub fn run<T, F>(&self, scenario: impl FnOnce(World) -> F) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let _seed = NamesTheSeed(self);
        let done = Arc::new(Mutex::new(None));
        let (outcome, future) = (done.clone(), scenario(self.world()));
        self.scheduler.spawn(
            FIRST_PROCESS,
            Box::pin(async move {
                let value = future.await;
                *outcome.lock().expect("no holder panics") = Some(value);
            }),
        );
        loop {
            let value = done.lock().expect("no holder panics").take();
            if let Some(value) = value {
                self.scheduler.drop_all();
                return value;
            }
            self.scheduler.step(self.seed);
        }
    }

    fn world_of(&self, process: u64, clock: Arc<SimClock>) -> World {
        World {
            clock,
            random: self.random.clone(),
            files: Arc::new(self.files.clone()),
            tasks: Arc::new(SimTasks { process, scheduler: self.scheduler.clone() }),
        }
    }
}

/// Prints the seed when a run panics, whoever panicked.
struct NamesTheSeed<'a>(&'a Simulation);

impl Drop for NamesTheSeed<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let steps = self.0.scheduler.lock().steps;
            eprintln!("simulation failed: seed {}, step {steps}, time {:?}", self.0.seed, self.0.clock.monotonic());
            // What waits holds the world, and the world holds what waits.
            self.0.scheduler.drop_all();
        }
    }
}

/// A group of tasks that is frozen, thawed and killed together.
pub struct Process {
    number: u64,
    world: World,
    clock: Arc<SimClock>,
    scheduler: Arc<Scheduler>,
}

impl Process {
    /// The world of this process: what is started through it belongs to it.
    pub fn world(&self) -> World {
        self.world.clone()
    }

    /// Its clock, whose calendar may be wrong on its own.
    pub fn clock(&self) -> &Arc<SimClock> {
        &self.clock
    }

    /// Nothing of it runs until it is thawed; time goes on for it nevertheless.
    pub fn freeze(&self) {
        self.scheduler.lock().frozen.insert(self.number);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.scheduler.lock().frozen.remove(&self.number);
    }

    /// Ends it between two steps; nothing of it runs any more.
    pub fn kill(&self) {
        self.scheduler.drop_where(|slot| slot.process == self.number);
    }
}

struct Scheduler {
    clock: Arc<SimClock>,
    queue: Mutex<Queue>,
}

struct Slot {
    process: u64,
    /// `None` while it is polled.
    work: Option<BoxFuture<'static, ()>>,
    queued: bool,
}

struct Queue {
    draw: Prng,
    tasks: BTreeMap<u64, Slot>,
    ready: Vec<u64>,
    timers: BTreeMap<(Duration, u64), Waker>,
    frozen: BTreeSet<u64>,
    last_number: u64,
    steps: u64,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            draw: Prng::new(0),
            tasks: BTreeMap::new(),
            ready: Vec::new(),
            timers: BTreeMap::new(),
            frozen: BTreeSet::new(),
            last_number: FIRST_PROCESS,
            steps: 0,
        }
    }
}

impl Queue {
    fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Takes a ready task of a process that is not frozen, drawn by the seed.
    fn draw_ready(&mut self) -> Option<(u64, BoxFuture<'static, ()>)> {
        let runnable: Vec<usize> = (0..self.ready.len())
            .filter(|at| !self.tasks.get(&self.ready[*at]).is_some_and(|slot| self.frozen.contains(&slot.process)))
            .collect();
        if runnable.is_empty() {
            return None;
        }
        let at = runnable[self.draw.index(runnable.len())];
        let number = self.ready.swap_remove(at);
        let slot = self.tasks.get_mut(&number).expect("what is ready exists");
        slot.queued = false;
        Some((number, slot.work.take().expect("what is ready is not being polled")))
    }

    /// The wakers whose time has come.
    fn take_due(&mut self, now: Duration) -> Vec<Waker> {
        let later = self.timers.split_off(&(now + Duration::from_nanos(1), 0));
        std::mem::replace(&mut self.timers, later).into_values().collect()
    }
}

impl Scheduler {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("no holder panics")
    }

    fn spawn(&self, process: u64, work: BoxFuture<'static, ()>) {
        let mut queue = self.lock();
        let number = queue.number();
        queue.tasks.insert(number, Slot { process, work: Some(work), queued: true });
        queue.ready.push(number);
    }

    fn wake(&self, number: u64) {
        let mut queue = self.lock();
        if let Some(slot) = queue.tasks.get_mut(&number)
            && !slot.queued
        {
            slot.queued = true;
            queue.ready.push(number);
        }
    }

    fn step(self: &Arc<Self>, seed: u64) {
        let (steps, drawn) = {
            let mut queue = self.lock();
            queue.steps += 1;
            (queue.steps, queue.draw_ready())
        };
        assert!(steps < MOST_STEPS, "seed {seed}: {MOST_STEPS} steps and no end: a livelock");
        match drawn {
            Some((number, work)) => self.poll(number, work),
            None => self.jump_to_next_timer(seed),
        }
        let due = self.lock().take_due(self.clock.monotonic());
        due.into_iter().for_each(Waker::wake);
    }

    /// Polls without holding the queue: the task wakes, spawns and drops others.
    fn poll(self: &Arc<Self>, number: u64, mut work: BoxFuture<'static, ()>) {
        self.clock.advance(STEP);
        let waker = Waker::from(Arc::new(TaskWaker { number, scheduler: self.clone() }));
        if work.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
            let mut queue = self.lock();
            match queue.tasks.get_mut(&number) {
                Some(slot) => slot.work = Some(work),
                // Its process was killed by what it called; it goes when the queue is free again.
                None => drop((queue, work)),
            }
        } else {
            self.lock().tasks.remove(&number);
        }
    }

    fn jump_to_next_timer(&self, seed: u64) {
        let next = self.lock().timers.first_key_value().map(|((at, _), _)| *at);
        let Some(at) = next else {
            let waiting = self.lock().tasks.len();
            panic!("seed {seed}: deadlock: {waiting} tasks wait, none is ready and no timer runs");
        };
        self.clock.advance(at.saturating_sub(self.clock.monotonic()));
    }

    fn drop_all(&self) {
        self.drop_where(|_| true);
    }

    /// Drops tasks without holding the queue: what they hold may wake others.
    fn drop_where(&self, gone: impl Fn(&Slot) -> bool) {
        let mut queue = self.lock();
        let (dropped, kept) = std::mem::take(&mut queue.tasks).into_iter().partition(|(_, slot)| gone(slot));
        queue.tasks = kept;
        let left: Vec<u64> = queue.ready.iter().copied().filter(|task| queue.tasks.contains_key(task)).collect();
        queue.ready = left;
        drop(queue);
        drop::<BTreeMap<u64, Slot>>(dropped);
    }
}

struct TaskWaker {
    number: u64,
    scheduler: Arc<Scheduler>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.scheduler.wake(self.number);
    }
}

struct SimTasks {
    process: u64,
    scheduler: Arc<Scheduler>,
}

impl Tasks for SimTasks {
    fn spawn(&self, future: BoxFuture<'static, ()>) {
        self.scheduler.spawn(self.process, future);
    }

    fn blocking(&self, work: Box<dyn FnOnce() + Send>) {
        self.scheduler.spawn(self.process, Box::pin(async move { work() }));
    }

    fn compute(&self, work: Box<dyn FnOnce() + Send>) {
        self.blocking(work);
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let deadline = self.scheduler.clock.monotonic().saturating_add(duration);
        Box::pin(Sleep { scheduler: self.scheduler.clone(), deadline, timer: None })
    }

    fn processors(&self) -> usize {
        2
    }
}

/// A timer that disappears when nobody waits for it any more.
struct Sleep {
    scheduler: Arc<Scheduler>,
    deadline: Duration,
    timer: Option<u64>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.scheduler.clock.monotonic() >= self.deadline {
            return Poll::Ready(());
        }
        let scheduler = self.scheduler.clone();
        let mut queue = scheduler.lock();
        let timer = *self.timer.get_or_insert_with(|| queue.number());
        let replaced = queue.timers.insert((self.deadline, timer), cx.waker().clone());
        drop(queue);
        drop(replaced);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(timer) = self.timer {
            let waker = self.scheduler.lock().timers.remove(&(self.deadline, timer));
            drop(waker);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three tasks that each add their letter three times: the order is what the seed makes of it.
    fn order(seed: u64) -> String {
        Simulation::new(seed).run(|world| async move {
            let text = Arc::new(Mutex::new(String::new()));
            let tasks: Vec<_> = ["a", "b", "c"]
                .into_iter()
                .map(|letter| {
                    let (world, text) = (world.clone(), text.clone());
                    world.clone().spawn(async move {
                        for _ in 0..3 {
                            let text = text.clone();
                            world.blocking(move || text.lock().expect("no holder panics").push_str(letter)).await;
                        }
                    })
                })
                .collect();
            futures::future::join_all(tasks).await;
            std::mem::take(&mut *text.lock().expect("no holder panics"))
        })
    }

    #[test]
    fn the_seed_decides_the_order_and_repeats_it() {
        let orders: BTreeSet<String> = (0..50).map(order).collect();
        assert!(orders.len() > 30, "50 seeds gave {} orders", orders.len());
        assert!((0..50).all(|seed| order(seed) == order(seed)));
    }

    #[test]
    fn a_year_of_sleep_takes_no_time() {
        let year = Duration::from_hours(365 * 24);
        let passed = Simulation::new(1).run(move |world| async move {
            world.sleep(year).await;
            world.monotonic()
        });
        assert!(passed >= year && passed < year + Duration::from_secs(1));
    }

    #[test]
    fn timers_fire_while_others_keep_the_machine_busy() {
        let woke = Simulation::new(1).run(|world| async move {
            let sleeper = {
                let world = world.clone();
                world.clone().spawn(async move {
                    world.sleep(Duration::from_micros(50)).await;
                    world.monotonic()
                })
            };
            for _ in 0..1000 {
                world.blocking(|| ()).await;
            }
            sleeper.await
        });
        assert!(woke < Duration::from_millis(1), "{woke:?}");
    }

    #[test]
    #[should_panic(expected = "seed 7: deadlock")]
    fn waiting_for_what_never_happens_is_a_deadlock_that_names_the_seed() {
        Simulation::new(7).run(|_| futures::future::pending::<()>());
    }

    #[test]
    fn an_abandoned_timer_does_not_hide_a_deadlock() {
        let deadlock = std::panic::catch_unwind(|| {
            Simulation::new(7).run(|world| async move {
                assert!(futures::poll!(Box::pin(world.sleep(Duration::from_secs(5)))).is_pending());
                futures::future::pending::<()>().await;
            });
        });
        assert!(deadlock.is_err());
    }

    #[test]
    fn a_frozen_process_goes_on_where_it_was_and_a_killed_one_does_not() {
        let simulation = Simulation::new(3);
        let (frozen, killed) = (simulation.process(), simulation.process());
        let count = Arc::new(Mutex::new([0, 0]));
        let counted = count.clone();
        let seen = simulation.run(move |world| async move {
            for (at, process) in [&frozen, &killed].into_iter().enumerate() {
                let (world, count) = (process.world(), count.clone());
                process.world().spawn(async move {
                    loop {
                        count.lock().expect("no holder panics")[at] += 1;
                        world.sleep(Duration::from_secs(1)).await;
                    }
                });
            }
            world.sleep(Duration::from_millis(9500)).await;
            frozen.freeze();
            killed.kill();
            world.sleep(Duration::from_secs(100)).await;
            let seen = *count.lock().expect("no holder panics");
            frozen.thaw();
            world.sleep(Duration::from_millis(4900)).await;
            seen
        });
        assert_eq!(seen, [10, 10]);
        let end = *counted.lock().expect("no holder panics");
        assert!(end[0] > 13 && end[1] == 10, "{end:?}");
    }
}
