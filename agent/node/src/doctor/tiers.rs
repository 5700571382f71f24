//! The storage that is shared: whether it answers, lets this machine in, and has the time.

use crate::{
    chain::chain,
    config::{Backend, TierSettings},
    connect::connect,
};
use netbuild_core::{
    doctor::{Tier, TierState, Trouble},
    outbox::Writing,
};
use netbuild_store::{Class, TierError};
use std::time::{Duration, Instant};

pub(super) fn look(settings: &TierSettings) -> Tier {
    let mut found = Tier {
        is_bucket: matches!(settings.backend, Backend::S3(_)),
        writes: settings.terms.writing != Writing::Never,
        state: TierState::Works(Duration::ZERO),
        ahead_s: None,
    };
    let unusable = |says: String| TierState::Fails(Trouble { refused: true, full: false, says });
    let tier = match connect(settings) {
        Ok(tier) => tier,
        Err(error) => return Tier { state: unusable(chain(&error)), ..found },
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Tier { state: unusable(error.to_string()), ..found },
    };
    runtime.block_on(async {
        found.state = match tier.probe().await {
            // The first request has made the connection, too.
            Ok(()) => {
                let began = Instant::now();
                match tier.probe().await {
                    Ok(()) => TierState::Works(began.elapsed()),
                    Err(error) => TierState::Fails(trouble(&error)),
                }
            }
            Err(error) => TierState::Fails(trouble(&error)),
        };
        if found.writes
            && matches!(found.state, TierState::Works(_))
            && let Err(error) = tier.try_writing().await
        {
            found.state = TierState::ReadOnly(trouble(&error));
        }
        // What was refused may have told the time all the same.
        found.ahead_s = tier.ahead().await.ok().flatten();
    });
    found
}

fn trouble(error: &TierError) -> Trouble {
    let class = error.class();
    let says = chain(error);
    Trouble { refused: class == Class::Refused, full: class == Class::Full, says }
}
