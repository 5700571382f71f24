//! Questions between members.

use crate::support::{Agent, Backwards, id, options, seed};
use netbuild_core::peer::PeerId;
use netbuild_mesh::{AskError, Exchange, Options};
use netbuild_proto::membership::MAX_EXCHANGE;
use std::sync::Arc;
use tokio::task::JoinSet;

#[tokio::test]
async fn a_member_answers_a_question_of_any_size() {
    let mut a = Agent::start(options(1)).await;
    let b = Agent::start(Options { seeds: vec![seed(&a)], ..options(2) }).await;
    a.joined(id(2)).await;
    assert_eq!(a.mesh.ask(id(2), b"abc".to_vec()).await.unwrap(), b"cba");
    let mut long = vec![0; MAX_EXCHANGE];
    long[0] = 1;
    let answer = a.mesh.ask(id(2), long.clone()).await.unwrap();
    assert_eq!((answer.len(), answer.last()), (MAX_EXCHANGE, Some(&1)));
    long.push(0);
    assert_eq!(a.mesh.ask(id(2), long).await, Err(AskError::TooLong));
    assert_eq!(a.mesh.ask(id(2), Vec::new()).await, Err(AskError::Refused));
    assert_eq!(a.mesh.ask(id(9), vec![1]).await, Err(AskError::NotConnected));
    b.mesh.shutdown().await;
    a.left(id(2)).await;
    assert_eq!(a.mesh.ask(id(2), vec![1]).await, Err(AskError::NotConnected));
    a.mesh.shutdown().await;
    assert_eq!(a.mesh.ask(id(2), vec![1]).await, Err(AskError::Closed));
}

/// Says twice as much as may be said, or panics.
#[derive(Debug)]
struct Rude;

impl Exchange for Rude {
    fn answer(&self, peer: &PeerId, request: Vec<u8>) -> Option<Vec<u8>> {
        assert!(!request.is_empty(), "{peer} asks nothing");
        Some(vec![0; 2 * MAX_EXCHANGE])
    }
}

#[tokio::test]
async fn a_user_that_fails_to_answer_harms_nothing() {
    let mut a = Agent::start(options(1)).await;
    let rude = Options { exchange: Arc::new(Rude), seeds: vec![seed(&a)], ..options(2) };
    let mut b = Agent::start(rude).await;
    a.joined(id(2)).await;
    b.joined(id(1)).await;
    assert_eq!(a.mesh.ask(id(2), Vec::new()).await, Err(AskError::Refused));
    assert_eq!(a.mesh.ask(id(2), vec![1]).await, Err(AskError::Refused));
    assert_eq!(b.mesh.ask(id(1), b"ab".to_vec()).await.unwrap(), b"ba");
}

#[tokio::test]
async fn many_questions_at_once_are_answered_or_refused() {
    let mut a = Agent::start(options(1)).await;
    let asked = Options { exchange: Arc::new(Backwards), seeds: vec![seed(&a)], ..options(2) };
    let _b = Agent::start(asked).await;
    a.joined(id(2)).await;
    let mut asks = JoinSet::new();
    for n in 0..100u8 {
        let mesh = a.mesh.clone();
        asks.spawn(async move { mesh.ask(id(2), vec![n, 0]).await });
    }
    let mut answers = 0;
    while let Some(answer) = asks.join_next().await {
        match answer.unwrap() {
            Ok(answer) => answers += usize::from(answer[0] == 0),
            Err(error) => assert_eq!(error, AskError::Busy),
        }
    }
    assert!(answers >= 4, "{answers}");
}
