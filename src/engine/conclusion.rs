//! Writing down how a run ended.

use std::time::Duration;

use tokio::time::Instant;

use super::dispatcher::{Dispatcher, Ending};
use super::{Outcome, Setback};
use crate::mutation::Step;
use crate::state::{Actor, RunEvent, RunState, StoreError};

/// How long the end of a run may take to write down before the runner gives up and leaves it to a resume.
const CONCLUDE_MAX: Duration = Duration::from_secs(30);

impl Dispatcher<'_> {
    /// Writes down how the run ended.
    pub(super) async fn conclude(&mut self) -> Outcome {
        let (event, failure) = match self.ending.clone() {
            Some(Ending::TakenOver) => return Outcome::TakenOver,
            Some(Ending::Lost(why)) => return Outcome::Lost(why),
            Some(Ending::Drain(_)) => (RunEvent::Drained, None),
            Some(Ending::Fail(why)) => (RunEvent::Broke, Some(why)),
            None if self.failed > 0 => {
                (RunEvent::Broke, Some(format!("{} chunks were given up", self.failed)))
            }
            None => (RunEvent::Finished, None),
        };
        let deadline = Instant::now() + CONCLUDE_MAX;
        loop {
            match self.write_end(event, failure.as_deref()).await {
                Ok(state) => return Outcome::Reached(state),
                Err(Setback::TakenOver) => return Outcome::TakenOver,
                Err(Setback::Fault(fault)) if Instant::now() > deadline => {
                    return Outcome::Lost(fault.message);
                }
                Err(Setback::Fault(_)) => tokio::time::sleep(Duration::from_millis(500)).await,
            }
        }
    }

    async fn write_end(
        &mut self,
        event: RunEvent,
        failure: Option<&str>,
    ) -> Result<RunState, Setback> {
        let client =
            self.work.database.get().await.map_err(|error| Setback::from_connect(&error))?;
        let (store, run_id) = (&self.work.store, self.work.run_id);
        let by = Actor::Runner { epoch: self.work.epoch, failure };
        Step::Ending.reach();
        let state = match store.transition(&client, run_id, event, by).await {
            Ok(state) => state,
            // A commit whose answer was lost: the state was reached by the attempt before.
            Err(StoreError::Illegal(illegal)) => illegal.from,
            Err(error) => return Err(Setback::from_store(error, Duration::ZERO, Duration::MAX)),
        };
        let detail = match (&self.ending, failure) {
            (_, Some(failure)) => failure.to_owned(),
            (Some(Ending::Drain(reason)), None) => reason.clone(),
            _ => format!("{} rows by this runner", self.rows),
        };
        let logged = store.log(&client, run_id, &self.start.who, state.as_str(), &detail).await;
        if let Err(error) = logged {
            tracing::warn!(run.id = run_id, error = %error, "the end of the run is not in its log");
        }
        Step::Ended.reach();
        Ok(state)
    }
}
