//! How ids and digests stand in JSON: as lowercase hexadecimal text.

/// Ids.
pub(crate) mod id {
    use asof_world::Id;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(id: &Id, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(id)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Id, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// 32-byte digests and keys.
pub(crate) mod digest {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&hex::encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(deserializer)?;
        super::digits(&text).ok_or_else(|| D::Error::custom("a digest or key is not 64 lowercase hexadecimal digits"))
    }
}

/// `N` bytes from lowercase digits: one text for one value, so that no change of a stored text goes unseen.
pub(crate) fn digits<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let is_lowercase = !text.bytes().any(|byte| byte.is_ascii_uppercase());
    (is_lowercase && hex::decode_to_slice(text, &mut bytes).is_ok()).then_some(bytes)
}
