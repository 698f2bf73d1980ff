//! Description and tags of a key.

use crate::ops::keys::not_pending;
use crate::ops::resolve::KeyTarget;
use crate::ops::{Context, Effects, OpError, Ops, Page, Response, Tag};

const MAX_TAGS: usize = 50;
const LIST_TAGS_DEFAULT: u32 = 50;

impl Ops {
    pub(super) async fn update_description(
        &self,
        key: &KeyTarget,
        description: &str,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<Response, OpError> {
        let description = description.to_owned();
        self.change_key(key, ctx, effects, move |record, arn| {
            not_pending(record, arn)?;
            record.description = description;
            Ok(())
        })
        .await?;
        Ok(Response::Empty)
    }

    /// An updated tag keeps its place, new ones come last.
    pub(super) async fn tag(
        &self,
        key: &KeyTarget,
        tags: &[Tag],
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<Response, OpError> {
        let tags = tags.to_vec();
        self.change_key(key, ctx, effects, move |record, arn| {
            not_pending(record, arn)?;
            for tag in tags {
                match record.tags.iter_mut().find(|(name, _)| *name == tag.key) {
                    Some((_, value)) => *value = tag.value,
                    None => record.tags.push((tag.key, tag.value)),
                }
            }
            if record.tags.len() > MAX_TAGS { Err(OpError::Tag("Too many tags")) } else { Ok(()) }
        })
        .await?;
        Ok(Response::Empty)
    }

    pub(super) async fn untag(
        &self,
        key: &KeyTarget,
        tag_keys: &[String],
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<Response, OpError> {
        let gone = tag_keys.to_vec();
        self.change_key(key, ctx, effects, move |record, arn| {
            not_pending(record, arn)?;
            record.tags.retain(|(name, _)| !gone.contains(name));
            Ok(())
        })
        .await?;
        Ok(Response::Empty)
    }

    pub(super) fn list_tags(&self, key: &KeyTarget, page: &Page) -> Result<Response, OpError> {
        let list = format!("ListResourceTags {}", key.record.id);
        let limit = page.limit.unwrap_or(LIST_TAGS_DEFAULT) as usize;
        let start = match &page.marker {
            None => 0,
            Some(marker) => {
                let after = self.markers.open(&list, marker)?;
                key.record.tags.iter().position(|(name, _)| *name == after).map_or(0, |at| at + 1)
            }
        };
        let tags: Vec<Tag> = key
            .record
            .tags
            .iter()
            .skip(start)
            .take(limit)
            .map(|(name, value)| Tag { key: name.clone(), value: value.clone() })
            .collect();
        let more = start + tags.len() < key.record.tags.len();
        let next_marker = match tags.last() {
            Some(last) if more => Some(self.markers.seal(&list, &last.key)?),
            _ => None,
        };
        Ok(Response::ListResourceTags { tags, next_marker })
    }
}
