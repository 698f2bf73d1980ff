//! The token of a service that starts: one that goes away after the login is waited for, as one that was away before it.
//! Once the service has started it is the token itself: then callers are told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tokio::sync::Notify;

use crate::keystore::{CallContext, ErrorClass, Status, Token, TokenError};
use crate::secret::SecretString;
use crate::token::{
    About, Answer, Backend, Backoff, BoxFuture, Change, Gauges, MaterialId, Request, Retry, TokenGroup,
};

/// The word between the start and its token.
#[derive(Default)]
pub(super) struct Patience {
    started: AtomicBool,
    /// Somebody waits for the token.
    waits: Notify,
}

struct Patient {
    token: Token,
    patience: Arc<Patience>,
    retry: Retry,
}

impl Patience {
    /// From now on errors are told as they are.
    pub(super) fn end(&self) {
        self.started.store(true, Ordering::Release);
    }

    /// Until a call of the start has to wait.
    pub(super) async fn waits(&self) {
        self.waits.notified().await;
    }
}

/// The token, and patience with it until the start is done.
pub(super) fn patient(token: Token, retry: Retry) -> (Token, Arc<Patience>) {
    let patience = Arc::<Patience>::default();
    (Token::of(Patient { token, patience: Arc::clone(&patience), retry }), patience)
}

impl Patient {
    /// RULE: what may have made something is not made again; all else may be asked twice.
    fn waits_for(&self, error: &TokenError) -> bool {
        !self.patience.started.load(Ordering::Acquire)
            && self.token.doom().is_none()
            && matches!(
                error.class,
                ErrorClass::Context | ErrorClass::Session | ErrorClass::Capacity | ErrorClass::Deadline
            )
    }

    async fn insist(&self, ctx: &CallContext, request: Request) -> Result<Answer, TokenError> {
        let patience = ctx.deadline.saturating_duration_since(Instant::now());
        let mut backoff = Backoff::new(self.retry);
        loop {
            let ctx = CallContext { deadline: Instant::now() + patience, ..ctx.clone() };
            let error = match self.token.perform(&ctx, request.clone()).await {
                Err(error) if self.waits_for(&error) => error,
                answer => return answer,
            };
            tracing::warn!(call = request.name(), %error, "the start waits for the token");
            self.patience.waits.notify_one();
            tokio::time::sleep(backoff.wait()).await;
            // A token that is known to be down brings itself back.
            while self.token.status() != Status::Ready && self.waits_for(&error) {
                tokio::time::sleep(self.retry.first).await;
            }
        }
    }
}

impl Backend for Patient {
    fn perform<'a>(&'a self, ctx: &'a CallContext, request: Request) -> BoxFuture<'a, Result<Answer, TokenError>> {
        let once = matches!(request, Request::Generate { .. } | Request::WriteData { .. } | Request::Adopt { .. });
        if once || self.patience.started.load(Ordering::Acquire) {
            return self.token.perform(ctx, request);
        }
        Box::pin(self.insist(ctx, request))
    }

    fn change_pin(&self, pin: SecretString) -> BoxFuture<'_, Result<(), TokenError>> {
        Box::pin(self.token.change_pin(pin))
    }

    fn about(&self) -> Arc<About> {
        self.token.about()
    }

    fn status(&self) -> Status {
        self.token.status()
    }

    fn gauges(&self) -> Gauges {
        self.token.gauges()
    }

    fn changes(&self) -> Vec<Change> {
        self.token.changes()
    }

    fn doom(&self) -> Option<String> {
        self.token.doom()
    }

    fn place(&self, places: Vec<(MaterialId, Vec<u8>)>) {
        self.token.place(places);
    }

    fn give_up(&self, material: MaterialId) {
        self.token.give_up(material);
    }

    fn close(&self) {
        self.token.close();
    }

    fn group(&self) -> Option<&dyn TokenGroup> {
        self.token.as_group()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;
    use std::time::Duration;

    use super::*;
    use crate::token::{Request, SystemKey};

    /// Answers with these errors first.
    struct Failing(Mutex<VecDeque<ErrorClass>>, Mutex<usize>);

    impl Backend for Arc<Failing> {
        fn perform<'a>(&'a self, _: &'a CallContext, _: Request) -> BoxFuture<'a, Result<Answer, TokenError>> {
            *self.1.lock().unwrap() += 1;
            let class = self.0.lock().unwrap().pop_front();
            Box::pin(async move {
                class.map_or(Ok(Answer::Flag(true)), |class| Err(TokenError::own(class, "C_Decrypt", "test")))
            })
        }

        fn change_pin(&self, _: SecretString) -> BoxFuture<'_, Result<(), TokenError>> {
            Box::pin(async { Ok(()) })
        }

        fn about(&self) -> Arc<About> {
            Arc::default()
        }

        fn status(&self) -> Status {
            Status::Ready
        }

        fn gauges(&self) -> Gauges {
            Gauges::default()
        }

        fn changes(&self) -> Vec<Change> {
            Vec::new()
        }

        fn doom(&self) -> Option<String> {
            None
        }

        fn group(&self) -> Option<&dyn TokenGroup> {
            None
        }

        fn place(&self, _: Vec<(MaterialId, Vec<u8>)>) {}

        fn give_up(&self, _: MaterialId) {}

        fn close(&self) {}
    }

    async fn ask(
        errors: &[ErrorClass],
        request: Request,
        started: bool,
    ) -> (Result<Answer, TokenError>, usize, Arc<Patience>) {
        let inner = Arc::new(Failing(Mutex::new(errors.iter().copied().collect()), Mutex::new(0)));
        let retry = Retry { first: Duration::from_millis(1), longest: Duration::from_millis(2) };
        let (token, patience) = patient(Token::of(Arc::clone(&inner)), retry);
        if started {
            patience.end();
        }
        let deadline = Instant::now() + Duration::from_secs(60);
        let ctx = CallContext { principal: "test".into(), deadline, request_id: "test".into() };
        let answer = token.perform(&ctx, request).await;
        let calls = *inner.1.lock().unwrap();
        (answer, calls, patience)
    }

    #[tokio::test]
    async fn the_start_waits_and_the_service_does_not() {
        let away = [ErrorClass::Context, ErrorClass::Session, ErrorClass::Capacity, ErrorClass::Deadline];
        let (answer, calls, patience) = ask(&away, Request::Materials, false).await;
        assert!(answer.is_ok() && calls == 5);
        patience.waits().await;
        let (answer, calls, _) = ask(&away, Request::Materials, true).await;
        assert_eq!((answer.unwrap_err().class, calls), (ErrorClass::Context, 1));
    }

    #[tokio::test]
    async fn what_waiting_does_not_mend_is_told() {
        for class in [ErrorClass::WrongKey, ErrorClass::KeyMissing, ErrorClass::Operator, ErrorClass::Data] {
            let (answer, calls, _) = ask(&[class], Request::Materials, false).await;
            assert_eq!((answer.unwrap_err().class, calls), (class, 1));
        }
    }

    #[tokio::test]
    async fn a_key_is_not_made_twice() {
        let material = MaterialId { id: [7; 16], generation: 0 };
        let request = Request::Generate { kind: crate::token::KeyKind::Aes256, material, label: "x".to_owned() };
        let (answer, calls, _) = ask(&[ErrorClass::Context], request, false).await;
        assert_eq!((answer.unwrap_err().class, calls), (ErrorClass::Context, 1));
        let (answer, calls, _) =
            ask(&[ErrorClass::Context], Request::EnsureSystemKey { key: SystemKey::Anchor }, false).await;
        assert!(answer.is_ok() && calls == 2);
    }
}
