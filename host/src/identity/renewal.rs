//! Renewal before the end: a token is replaced while the old one lives, so that a provider that is out
//! of order at the wrong moment costs nothing.

use std::{
    future::pending,
    sync::{Arc, PoisonError, Weak},
};

use tokio::time::sleep_until;

use super::TokenService;

impl TokenService {
    /// Starts renewing, once. It ends with the service.
    pub(super) fn start_renewal(self: &Arc<Self>) {
        let mut renewal = self.renewal.lock().unwrap_or_else(PoisonError::into_inner);
        if !renewal.is_empty() {
            return;
        }
        let (service, renewed) = (Arc::downgrade(self), Arc::clone(&self.renewed));
        renewal.spawn("token-renewal", async move {
            // The service is held while it works, not while it waits.
            while let Some(due) = Weak::upgrade(&service).map(|service| service.renewal_due()) {
                let wait = async {
                    match due {
                        Some(due) => sleep_until(due).await,
                        None => pending().await,
                    }
                };
                tokio::select! {
                    () = renewed.notified() => {}
                    () = wait => match Weak::upgrade(&service) {
                        Some(service) => service.renew().await,
                        None => break,
                    },
                }
            }
            Ok(())
        });
    }
}
