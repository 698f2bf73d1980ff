//! Object handles by key, filled by one enumeration and never searched for on the hot path. A handle is used only after the
//! fingerprint of its key was checked in the same epoch: after a login a number may name another key.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use cryptoki::object::{ObjectClass, ObjectHandle};

use super::places::Places;
use super::{KeyRef, MaterialId, SystemKey};

/// How long "the token does not have it" is believed before it is looked for again.
const REFUSAL_HOLDS: Duration = Duration::from_secs(5);

impl MaterialId {
    /// `CKA_ID` of the objects of this material.
    pub fn cka_id(&self) -> Vec<u8> {
        let mut id = self.id.to_vec();
        if self.generation != 0 {
            id.extend(self.generation.to_be_bytes());
        }
        id
    }

    /// The way back; `None` for the id of an object that is not ours.
    pub fn from_cka_id(id: &[u8]) -> Option<MaterialId> {
        let (key, generation) = id.split_at_checked(16)?;
        let generation = match generation {
            [] => 0,
            bytes => u32::from_be_bytes(bytes.try_into().ok()?),
        };
        // One id has one form: generation 0 is written without its four bytes.
        (generation != 0 || id.len() == 16).then_some(MaterialId { id: key.try_into().ok()?, generation })
    }
}

impl SystemKey {
    pub const ALL: [SystemKey; 4] = [SystemKey::StoreKek, SystemKey::IamWrap, SystemKey::Anchor, SystemKey::Attest];

    /// As the bridge calls it: the label without the prefix.
    pub fn name(self) -> &'static str {
        match self {
            SystemKey::StoreKek => "store-kek",
            SystemKey::IamWrap => "iam-wrap",
            SystemKey::Anchor => "anchor",
            SystemKey::Attest => "attest",
        }
    }

    /// The half that works: a secret key, or the private key of a pair.
    pub(super) fn class(self) -> Class {
        match self {
            SystemKey::StoreKek | SystemKey::IamWrap | SystemKey::Anchor => Class::Secret,
            SystemKey::Attest => Class::Private,
        }
    }
}

/// Which half of a key an operation uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Class {
    Secret,
    Private,
    Public,
}

impl Class {
    pub(super) fn of(class: ObjectClass) -> Option<Class> {
        match class {
            ObjectClass::SECRET_KEY => Some(Class::Secret),
            ObjectClass::PRIVATE_KEY => Some(Class::Private),
            ObjectClass::PUBLIC_KEY => Some(Class::Public),
            _ => None,
        }
    }
}

/// What is known of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lookup {
    /// `checked`: its fingerprint was checked in this epoch.
    Found { handle: ObjectHandle, public: Option<ObjectHandle>, checked: bool, epoch: u64 },
    /// Not known: it has to be found in the token.
    Unknown,
    /// The token was asked a moment ago and does not have it.
    Missing,
    /// Several objects of one class have its id or label.
    Duplicate,
}

/// Fingerprints of system keys, in the order of `SystemKey::ALL`.
pub(super) type Proofs = [Option<Arc<[u8]>>; 4];

#[derive(Default)]
pub(super) struct Handles {
    table: RwLock<Table>,
    /// What the system keys were when this process first saw them.
    proofs: Mutex<Proofs>,
    /// Grows before any login and with any enumeration: handles of an older epoch may name other keys.
    epoch: AtomicU64,
}

/// One enumeration's result.
#[derive(Default)]
pub(super) struct Table {
    epoch: u64,
    /// It is an enumeration, and not what was found since handles were forgotten.
    pub(super) listed: bool,
    materials: HashMap<MaterialId, Material>,
    /// Objects whose id is no key's, by id.
    foreign: HashMap<Vec<u8>, Material>,
    places: Places,
    system: [Material; 4],
    pub(super) debris: usize,
}

#[derive(Default, Clone)]
struct Material {
    secret: Slot,
    private: Slot,
    public: Slot,
    /// The fingerprint that was checked on these handles.
    checked: Option<Arc<[u8]>>,
    refused_at: Option<Instant>,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Slot {
    #[default]
    Empty,
    One(ObjectHandle),
    Many(u32),
}

impl Handles {
    pub(super) fn lookup(&self, key: &KeyRef, class: Class) -> Lookup {
        let table = self.read();
        let material = match key {
            KeyRef::Kms { material, .. } => table.materials.get(material),
            KeyRef::System(key) => Some(table.system_slot(*key)),
        };
        let Some(material) = material else { return Lookup::Unknown };
        let stale = material.refused_at.is_none_or(|at| at.elapsed() > REFUSAL_HOLDS);
        match material.slot(class) {
            Slot::One(handle) => Lookup::Found {
                handle,
                epoch: table.epoch,
                public: material.public.one(),
                checked: match key {
                    KeyRef::Kms { fingerprint, .. } => material.checked.as_ref() == Some(fingerprint),
                    // Any proof: there is one, and it was checked on these handles.
                    KeyRef::System(_) => material.checked.is_some(),
                },
            },
            Slot::Empty | Slot::Many(_) if stale => Lookup::Unknown,
            Slot::Empty => Lookup::Missing,
            Slot::Many(_) => Lookup::Duplicate,
        }
    }

    /// The fingerprint was checked on `handle` in `epoch`; both may have been replaced since.
    pub(super) fn mark_checked(&self, key: &KeyRef, handle: ObjectHandle, epoch: u64) {
        let proof = match key {
            KeyRef::Kms { fingerprint, .. } => Some(Arc::clone(fingerprint)),
            KeyRef::System(key) => self.proof(*key),
        };
        self.write().mark(key, handle, epoch, proof);
    }

    /// The object behind `handle` is not the key: whatever was checked before, no use goes on without a new check.
    pub(super) fn mark_wrong(&self, key: &KeyRef, handle: ObjectHandle, epoch: u64) {
        self.write().mark(key, handle, epoch, None);
    }

    pub(super) fn knows(&self, material: MaterialId) -> bool {
        self.read().materials.get(&material).is_some_and(|entry| entry.count() > 0)
    }

    /// Puts what was found or made in the place of what was known. A use within the next seconds is answered from here
    /// where the objects are none or too many.
    pub(super) fn put(&self, material: MaterialId, objects: &[(Class, ObjectHandle)], checked: Option<Arc<[u8]>>) {
        let mut entry = Material { checked, refused_at: Some(Instant::now()), ..Material::default() };
        objects.iter().for_each(|(class, handle)| entry.add(*class, *handle));
        self.write().materials.insert(material, entry);
    }

    pub(super) fn put_system(&self, key: SystemKey, objects: &[(Class, ObjectHandle)]) {
        let mut entry = Material { refused_at: Some(Instant::now()), ..Material::default() };
        objects.iter().for_each(|(class, handle)| entry.add(*class, *handle));
        *self.write().system_slot_mut(key) = entry;
    }

    /// A new enumeration begins a new epoch: nothing in it is checked.
    pub(super) fn replace(&self, table: Table) {
        let mut current = self.write();
        let epoch = self.epoch.fetch_add(1, Ordering::SeqCst) + 1;
        let places = std::mem::take(&mut current.places);
        *current = Table { epoch, ..table };
        current.place(places.into_list());
    }

    /// From now on the objects of these materials are those with this id.
    pub(super) fn place(&self, places: Vec<(MaterialId, Vec<u8>)>) {
        self.write().place(places);
    }

    /// The objects of this material are nobody's again.
    pub(super) fn give_up(&self, material: MaterialId) {
        let mut table = self.write();
        let table = &mut *table;
        table.places.give_up(material, &mut table.materials, &mut table.foreign);
    }

    /// `CKA_ID` of a material's objects, unless it is the material's own.
    pub(super) fn placed(&self, material: MaterialId) -> Option<Vec<u8>> {
        self.read().places.id(material).cloned()
    }

    /// Whose objects have this id by `place`.
    pub(super) fn placed_at(&self, id: &[u8]) -> Option<MaterialId> {
        self.read().places.material(id)
    }

    /// Forgets every handle. RULE: before a login, not after it: from then on old numbers may name other keys.
    pub(super) fn forget(&self) {
        self.replace(Table::default());
    }

    pub(super) fn system(&self, key: SystemKey) -> Option<ObjectHandle> {
        self.read().system_slot(key).slot(key.class()).one()
    }

    /// The public half.
    pub(super) fn system_public(&self, key: SystemKey) -> Option<ObjectHandle> {
        self.read().system_slot(key).public.one()
    }

    pub(super) fn proof(&self, key: SystemKey) -> Option<Arc<[u8]>> {
        let proofs = self.proofs();
        SystemKey::ALL.iter().zip(proofs.iter()).find(|(known, _)| **known == key).and_then(|(_, proof)| proof.clone())
    }

    /// `proof` was made with `handle`, and nobody logged in since `epoch`: from now on the key has to pass it.
    pub(super) fn prove(&self, key: SystemKey, handle: ObjectHandle, epoch: u64, proof: &[u8]) {
        let table = self.read();
        if table.epoch != epoch || table.system_slot(key).slot(key.class()) != Slot::One(handle) {
            return;
        }
        let mut proofs = self.proofs();
        for (_, known) in SystemKey::ALL.iter().zip(proofs.iter_mut()).filter(|(known, _)| **known == key) {
            known.get_or_insert_with(|| Arc::from(proof));
        }
    }

    /// For a connection that takes this one's place.
    pub(super) fn all_proofs(&self) -> Proofs {
        self.proofs().clone()
    }

    /// The system keys have to be what they were for another connection.
    pub(super) fn proven(proofs: Proofs) -> Handles {
        Handles { proofs: Mutex::new(proofs), ..Handles::default() }
    }

    /// The key was made anew.
    pub(super) fn forget_proof(&self, key: SystemKey) {
        let mut proofs = self.proofs();
        for (_, known) in SystemKey::ALL.iter().zip(proofs.iter_mut()).filter(|(known, _)| **known == key) {
            *known = None;
        }
    }

    fn proofs(&self) -> MutexGuard<'_, Proofs> {
        self.proofs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_listed(&self) -> bool {
        self.read().listed
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    pub(super) fn debris(&self) -> usize {
        let table = self.read();
        table.debris + table.foreign.values().map(Material::count).sum::<usize>()
    }

    pub(super) fn duplicates(&self) -> usize {
        let table = self.read();
        table.materials.values().chain(&table.system).filter(|entry| entry.duplicated()).count()
    }

    pub(super) fn materials(&self) -> Vec<(MaterialId, usize)> {
        let table = self.read();
        let mut known: Vec<_> =
            table.materials.iter().map(|(id, entry)| (*id, entry.count())).filter(|(_, count)| *count > 0).collect();
        known.sort_unstable();
        known
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Whether it has a key of the bridge itself.
    pub(super) fn has_system(&self) -> bool {
        SystemKey::ALL.into_iter().any(|key| {
            let found = self.system_slot(key);
            found.slot(key.class()) != Slot::Empty
        })
    }

    pub(super) fn of_enumeration() -> Table {
        Table { listed: true, ..Table::default() }
    }

    /// An object as the enumeration finds it, before `replace` puts it in its place.
    pub(super) fn add(&mut self, id: &[u8], class: Class, handle: ObjectHandle) {
        let entry = match MaterialId::from_cka_id(id) {
            Some(material) => self.materials.entry(material).or_insert_with(Material::enumerated),
            None => self.foreign.entry(id.to_vec()).or_insert_with(Material::enumerated),
        };
        entry.add(class, handle);
    }

    /// `false`: no half of this key.
    pub(super) fn add_system(&mut self, key: SystemKey, class: Class, handle: ObjectHandle) -> bool {
        let fits = class == key.class() || (class == Class::Public && key.class() == Class::Private);
        if fits {
            self.system_slot_mut(key).add(class, handle);
        }
        fits
    }

    /// What was checked on `handle` in `epoch`; both may have been replaced since.
    fn mark(&mut self, key: &KeyRef, handle: ObjectHandle, epoch: u64, checked: Option<Arc<[u8]>>) {
        if self.epoch != epoch {
            return;
        }
        let entry = match key {
            KeyRef::Kms { material, .. } => self.materials.get_mut(material),
            KeyRef::System(key) => Some(self.system_slot_mut(*key)),
        };
        if let Some(entry) = entry.filter(|entry| [entry.secret, entry.private].contains(&Slot::One(handle))) {
            entry.checked = checked;
        }
    }

    fn place(&mut self, places: Vec<(MaterialId, Vec<u8>)>) {
        self.places.arrange(places, &mut self.materials, &mut self.foreign);
    }

    fn system_slot(&self, key: SystemKey) -> &Material {
        let [store_kek, iam_wrap, anchor, attest] = &self.system;
        match key {
            SystemKey::StoreKek => store_kek,
            SystemKey::IamWrap => iam_wrap,
            SystemKey::Anchor => anchor,
            SystemKey::Attest => attest,
        }
    }

    fn system_slot_mut(&mut self, key: SystemKey) -> &mut Material {
        let [store_kek, iam_wrap, anchor, attest] = &mut self.system;
        match key {
            SystemKey::StoreKek => store_kek,
            SystemKey::IamWrap => iam_wrap,
            SystemKey::Anchor => anchor,
            SystemKey::Attest => attest,
        }
    }
}

impl Slot {
    fn one(self) -> Option<ObjectHandle> {
        match self {
            Slot::One(handle) => Some(handle),
            Slot::Empty | Slot::Many(_) => None,
        }
    }
}

impl Material {
    fn slot(&self, class: Class) -> Slot {
        match class {
            Class::Secret => self.secret,
            Class::Private => self.private,
            Class::Public => self.public,
        }
    }

    fn enumerated() -> Material {
        Material { refused_at: Some(Instant::now()), ..Material::default() }
    }

    fn add(&mut self, class: Class, handle: ObjectHandle) {
        let slot = match class {
            Class::Secret => &mut self.secret,
            Class::Private => &mut self.private,
            Class::Public => &mut self.public,
        };
        *slot = match *slot {
            Slot::Empty => Slot::One(handle),
            Slot::One(_) => Slot::Many(2),
            Slot::Many(count) => Slot::Many(count + 1),
        };
    }

    fn count(&self) -> usize {
        [self.secret, self.private, self.public]
            .into_iter()
            .map(|slot| match slot {
                Slot::Empty => 0,
                Slot::One(_) => 1,
                Slot::Many(count) => count as usize,
            })
            .sum()
    }

    fn duplicated(&self) -> bool {
        [self.secret, self.private, self.public].iter().any(|slot| matches!(slot, Slot::Many(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgetting_begins_an_epoch() {
        let handles = Handles::default();
        let material = MaterialId { id: [1; 16], generation: 0 };
        handles.put(material, &[], None);
        let key = KeyRef::Kms { material, fingerprint: [0u8; 2].into() };
        assert_eq!(handles.lookup(&key, Class::Secret), Lookup::Missing, "asked a moment ago");
        let epoch = handles.epoch();
        handles.forget();
        assert_eq!(handles.epoch(), epoch + 1);
        assert_eq!(handles.lookup(&key, Class::Secret), Lookup::Unknown);
    }

    #[test]
    fn ids() {
        let plain = MaterialId { id: [7; 16], generation: 0 };
        assert_eq!(plain.cka_id(), [7; 16]);
        assert_eq!(MaterialId::from_cka_id(&[7; 16]), Some(plain));
        let rotated = MaterialId { id: [7; 16], generation: 0x0102_0304 };
        assert_eq!(rotated.cka_id()[16..], [1, 2, 3, 4]);
        assert_eq!(MaterialId::from_cka_id(&rotated.cka_id()), Some(rotated));
        for odd in [&[][..], &[1; 15], &[1; 17], &[1; 21], &[0; 20]] {
            assert_eq!(MaterialId::from_cka_id(odd), None, "{odd:?}");
        }
    }
}
