//! Flags that several commands share.

use std::time::Duration;

use clap::Args;

use crate::budget::Budget;
use crate::settings::Layer;
use crate::undo::Conflicts;
use crate::units::{parse_chunk_time, parse_duration, parse_workers};

#[derive(Clone, Copy, Debug, Default, Args)]
pub(super) struct LimitFlags {
    /// Chunks in flight at once
    #[arg(long, value_parser = parse_workers)]
    pub(super) workers: Option<u32>,
    /// What may be done in a second, over all workers: "2000 rows/s", "1 MB/s wal", or both
    #[arg(long)]
    pub(super) rate: Option<Budget>,
    /// How long one chunk should take, such as 500ms
    #[arg(long, value_parser = parse_chunk_time)]
    pub(super) chunk_time: Option<Duration>,
}

impl LimitFlags {
    pub(super) fn layer(&self) -> Layer {
        Layer {
            workers: self.workers,
            rate: self.rate,
            chunk_time: self.chunk_time,
            ..Layer::default()
        }
    }
}

#[derive(Clone, Copy, Debug, Default, Args)]
pub(super) struct AcceptFlags {
    /// The subscribers of a publication that covers the state tables have them already
    #[arg(long)]
    pub(super) subscribers_prepared: bool,
}

#[derive(Clone, Copy, Debug, Default, Args)]
pub(super) struct PaceFlags {
    /// Stop, resumable, at a closed window instead of waiting until it opens
    #[arg(long)]
    pub(super) no_wait: bool,
    /// Run without the health signals that this role cannot see
    #[arg(long)]
    pub(super) accept_blind: bool,
}

#[derive(Clone, Debug, Default, Args)]
pub(super) struct TuneFlags {
    #[command(flatten)]
    pub(super) limits: LimitFlags,
    /// Lift the rate limit
    #[arg(long, conflicts_with = "rate")]
    pub(super) no_rate: bool,
    /// Put this window into force, whatever the clock says
    #[arg(long, value_name = "NAME")]
    pub(super) window: Option<String>,
    /// Pass over a health signal: a name such as `replica_lag`, or `lag` for both of a replica's; may be given again
    #[arg(long, value_name = "SIGNAL")]
    pub(super) ignore_signal: Vec<String>,
    /// How long all of this lasts; limits last as long as the run when not given, the rest an hour
    #[arg(long = "for", value_name = "TIME", value_parser = parse_duration)]
    pub(super) lasting: Option<Duration>,
}

#[derive(Clone, Copy, Debug, Default, Args)]
pub(super) struct ResumeFlags {
    /// Continue although the spec's text has changed since the run began
    #[arg(long)]
    pub(super) accept_change: bool,
    /// Take the run over from a runner that holds it, ending its sessions on the server
    #[arg(long)]
    pub(super) take_over: bool,
    /// In a reverse run: what to do about rows that no longer hold what the backfill wrote
    #[arg(long, value_name = "POLICY")]
    pub(super) conflicts: Option<Conflicts>,
    /// Confirm `--conflicts=force`
    #[arg(long)]
    pub(super) yes: bool,
}
