//! CloudTrail's LookupEvents. Source: audit.md §2.7.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{blocking, unreadable};
use crate::audit::Journal;
use crate::audit::index::{Attribute, Hit, Index, Query, Seen};
use crate::ops::{LookupEvents, OpError, TrailRefusal};

/// How long a question waits for the index to have what was recorded before it.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// An answer without what was recorded before the question would look complete and not be: none is given then.
pub(super) async fn answer(index: &Index, journal: &Journal, asked: &LookupEvents) -> Result<Value, OpError> {
    let (until, began) = (journal.durable(), Instant::now());
    while index.indexed() < until {
        if began.elapsed() > PATIENCE {
            return Err(OpError::Trail(TrailRefusal::IndexNotReady));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    let before = asked.next_token.as_deref().map(str::parse).transpose();
    let query = Query {
        attribute: asked.attribute.as_ref().and_then(|(key, value)| Some((Attribute::named(key)?, value.clone()))),
        start: asked.start,
        end: asked.end,
        before: before.map_err(|_| OpError::Trail(TrailRefusal::InvalidNextToken))?,
        most: asked.max_results as usize,
    };
    let index = index.clone();
    let found = blocking(move || index.find(&query).map_err(|error| unreadable("the index", error))).await?;
    let mut answer = json!({ "Events": found.hits.iter().filter_map(shown).collect::<Vec<Value>>() });
    if let (Some(next), Some(members)) = (found.next, answer.as_object_mut()) {
        members.insert("NextToken".to_owned(), json!(next.to_string()));
    }
    Ok(answer)
}

/// RULE CloudTrail `Event`: `ReadOnly` is a text, and the record is one too.
fn shown(hit: &Hit) -> Option<Value> {
    let seen = Seen::of(&hit.line)?;
    let resources: Vec<Value> = seen
        .resources
        .iter()
        .flatten()
        .map(|resource| json!({ "ResourceType": resource.kind, "ResourceName": resource.arn }))
        .collect();
    let mut event = json!({
        "EventId": seen.event_id,
        "EventName": seen.event_name,
        "EventSource": seen.event_source,
        "EventTime": seen.seconds(),
        "ReadOnly": if seen.read_only { "true" } else { "false" },
        "Resources": resources,
        "CloudTrailEvent": std::str::from_utf8(&hit.line).ok()?,
    });
    let members = event.as_object_mut()?;
    for (name, text) in [("Username", seen.username()), ("AccessKeyId", seen.access_key())] {
        if let Some(text) = text {
            members.insert(name.to_owned(), json!(text));
        }
    }
    Some(event)
}
