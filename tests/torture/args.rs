//! The command lines of the user and of the child processes.

use std::env;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};

const USAGE: &str = "torture [--seconds N] [--seed N] [--callers N] [--workers N] [--rate CALLS-A-SECOND-OF-EACH-CALLER] [--no-stranger]\n\
    torture --jobs N [--quorum] [--seconds N] [--seed N] [--callers N] [--workers N]";

/// The options of the user.
#[derive(Debug, Clone)]
pub(crate) struct Args {
    /// How long faults are injected.
    pub(crate) duration: Duration,
    pub(crate) seed: u64,
    pub(crate) callers: usize,
    pub(crate) workers: usize,
    /// How often a second, on average, each caller makes a call or a burst, or sends a job.
    pub(crate) rate: u64,
    /// Whether a hostile peer attacks during the run.
    pub(crate) stranger: bool,
    /// About how many jobs are to be confirmed. `None` for calls instead of jobs.
    pub(crate) jobs: Option<u64>,
    /// Whether the queue of jobs is a quorum queue.
    pub(crate) quorum: bool,
}

/// The options of a child process.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) name: String,
    pub(crate) url: String,
    pub(crate) journal: PathBuf,
    pub(crate) seed: u64,
    /// As in [`Args`].
    pub(crate) rate: u64,
    /// How many workers there are.
    pub(crate) workers: usize,
    /// Whether it batches calls.
    pub(crate) batching: bool,
    /// Whether it sends or serves jobs instead of calls.
    pub(crate) jobs: bool,
    /// Whether the queue of jobs is a quorum queue.
    pub(crate) quorum: bool,
}

/// The role of this process.
#[derive(Debug)]
pub(crate) enum Role {
    Parent(Args),
    Worker(Seat),
    Caller(Seat),
}

impl Role {
    pub(crate) fn from_command_line() -> anyhow::Result<Self> {
        let mut words = env::args().skip(1).peekable();
        match words.peek().map(String::as_str) {
            Some("worker") => Seat::parse(words.skip(1)).map(Self::Worker),
            Some("caller") => Seat::parse(words.skip(1)).map(Self::Caller),
            _ => Args::parse(words).map(Self::Parent),
        }
    }
}

impl Args {
    fn parse(mut words: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let clock = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let mut args = Self {
            duration: Duration::from_secs(60),
            seed: u64::from(clock.subsec_nanos()),
            callers: 2,
            workers: 3,
            rate: 30,
            stranger: true,
            jobs: None,
            quorum: false,
        };
        while let Some(flag) = words.next() {
            match flag.as_str() {
                "--seconds" => args.duration = Duration::from_secs(number(&flag, words.next())?),
                "--seed" => args.seed = number(&flag, words.next())?,
                "--callers" => args.callers = number(&flag, words.next())?,
                "--workers" => args.workers = number(&flag, words.next())?,
                "--rate" => args.rate = number(&flag, words.next())?,
                "--no-stranger" => args.stranger = false,
                "--jobs" => args.jobs = Some(number(&flag, words.next())?),
                "--quorum" => args.quorum = true,
                _ => bail!("unknown option {flag}\n{USAGE}"),
            }
        }
        if args.callers == 0 || args.workers == 0 || args.rate == 0 {
            bail!("callers, workers and calls must not be zero\n{USAGE}");
        }
        if let Some(jobs) = args.jobs {
            let caller_seconds = args.duration.as_secs().max(1) * args.callers as u64;
            // Some more, because not all are confirmed: a killed caller loses those that it was
            // sending.
            args.rate = (jobs + jobs / 4).div_ceil(caller_seconds).max(1);
            args.stranger = false;
        }
        Ok(args)
    }
}

/// The options that repeat this run.
impl fmt::Display for Args {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            duration,
            seed,
            callers,
            workers,
            rate,
            stranger,
            jobs,
            quorum,
        } = self;
        if let Some(jobs) = jobs {
            let quorum = if *quorum { " --quorum" } else { "" };
            let seconds = duration.as_secs();
            return write!(
                f,
                "--jobs {jobs}{quorum} --seconds {seconds} --seed {seed} --callers {callers} --workers {workers}"
            );
        }
        let no_stranger = if *stranger { "" } else { " --no-stranger" };
        write!(
            f,
            "--seconds {} --seed {seed} --callers {callers} --workers {workers} --rate {rate}{no_stranger}",
            duration.as_secs()
        )
    }
}

impl Seat {
    /// Returns these options as the arguments after the role, for [`parse`](Self::parse).
    pub(crate) fn to_words(&self) -> [String; 9] {
        let journal = self.journal.to_string_lossy().into_owned();
        let (name, url) = (self.name.clone(), self.url.clone());
        let [seed, rate] = [self.seed, self.rate].map(|number| number.to_string());
        let workers = self.workers.to_string();
        let [batching, jobs, quorum] = [self.batching, self.jobs, self.quorum].map(|flag| flag.to_string());
        [name, url, journal, seed, rate, workers, batching, jobs, quorum]
    }

    fn parse(mut words: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        Ok(Self {
            name: words.next().context("a name")?,
            url: words.next().context("a URL")?,
            journal: words.next().context("a journal")?.into(),
            seed: number("the seed", words.next())?,
            rate: number("the rate", words.next())?,
            workers: number("the workers", words.next())?,
            batching: words.next().context("whether it batches")?.parse()?,
            jobs: words.next().context("whether it has jobs")?.parse()?,
            quorum: words.next().context("the type of the queue")?.parse()?,
        })
    }
}

fn number<N: FromStr>(flag: &str, word: Option<String>) -> anyhow::Result<N> {
    word.and_then(|word| word.parse().ok())
        .with_context(|| format!("{flag} needs a number\n{USAGE}"))
}
