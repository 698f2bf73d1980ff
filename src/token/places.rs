//! Where the objects of a material are when their `CKA_ID` is not made of the material's name: adopted keys, and tokens that
//! take short ids only.

use std::collections::HashMap;

use super::MaterialId;

#[derive(Default)]
pub(super) struct Places {
    ids: HashMap<MaterialId, Vec<u8>>,
    materials: HashMap<Vec<u8>, MaterialId>,
}

impl Places {
    pub(super) fn id(&self, material: MaterialId) -> Option<&Vec<u8>> {
        self.ids.get(&material)
    }

    pub(super) fn material(&self, id: &[u8]) -> Option<MaterialId> {
        self.materials.get(id).copied()
    }

    pub(super) fn into_list(self) -> Vec<(MaterialId, Vec<u8>)> {
        self.ids.into_iter().collect()
    }

    /// Remembers places, and brings what is known of the objects there under its material: `known` holds objects by the
    /// material that they belong to, `foreign` those that belong to none, by id.
    pub(super) fn arrange<E>(
        &mut self,
        mut places: Vec<(MaterialId, Vec<u8>)>,
        known: &mut HashMap<MaterialId, E>,
        foreign: &mut HashMap<Vec<u8>, E>,
    ) {
        places.retain(|(material, id)| self.id(*material) != Some(id));
        // All are taken from where they are before any is put where it belongs: one's id may be another's own.
        let taken: Vec<Option<E>> = places
            .iter()
            .map(|(_, id)| foreign.remove(id).or_else(|| known.remove(&MaterialId::from_cka_id(id)?)))
            .collect();
        for (material, _) in &places {
            if let Some(entry) = known.remove(material) {
                let left = self.id(*material).cloned().unwrap_or_else(|| material.cka_id());
                foreign.insert(left, entry);
            }
        }
        for ((material, id), entry) in places.into_iter().zip(taken) {
            if let Some(entry) = entry {
                known.insert(material, entry);
            }
            self.put(material, id);
        }
    }

    /// The objects of a material are nobody's again.
    pub(super) fn give_up<E>(
        &mut self,
        material: MaterialId,
        known: &mut HashMap<MaterialId, E>,
        foreign: &mut HashMap<Vec<u8>, E>,
    ) {
        let Some(id) = self.ids.remove(&material) else { return };
        self.materials.remove(&id);
        if let Some(entry) = known.remove(&material) {
            foreign.insert(id, entry);
        }
    }

    fn put(&mut self, material: MaterialId, id: Vec<u8>) {
        self.materials.insert(id.clone(), material);
        if let Some(left) = self.ids.insert(material, id)
            && self.materials.get(&left) == Some(&material)
        {
            self.materials.remove(&left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: MaterialId = MaterialId { id: [1; 16], generation: 0 };
    const TWO: MaterialId = MaterialId { id: [2; 16], generation: 0 };
    const OWN: MaterialId = MaterialId { id: [3; 16], generation: 7 };

    type Known = HashMap<MaterialId, &'static str>;
    type Foreign = HashMap<Vec<u8>, &'static str>;

    #[test]
    fn placed_objects_come_under_their_material() {
        let mut places = Places::default();
        // An adopted key whose id has the length of ours, a short id, and a key of our own.
        let elsewhere = MaterialId { id: [9; 16], generation: 0 };
        let enumerated = || -> (Known, Foreign) {
            (HashMap::from([(elsewhere, "long"), (OWN, "own")]), HashMap::from([(vec![0xab, 1], "short")]))
        };
        let wanted = || vec![(ONE, vec![0xab, 1]), (TWO, vec![9; 16])];
        let expected: Known = HashMap::from([(ONE, "short"), (TWO, "long"), (OWN, "own")]);
        let (mut known, mut foreign) = enumerated();
        places.arrange(wanted(), &mut known, &mut foreign);
        assert_eq!((&known, foreign.len()), (&expected, 0));
        places.arrange(wanted(), &mut known, &mut foreign);
        assert_eq!((&known, foreign.len()), (&expected, 0), "saying it again changes nothing");
        assert_eq!((places.material(&[9; 16]), places.id(OWN)), (Some(TWO), None));

        // After a new enumeration all is as before.
        let (mut known, mut foreign) = enumerated();
        let mut again = Places::default();
        again.arrange(places.into_list(), &mut known, &mut foreign);
        assert_eq!((&known, foreign.len()), (&expected, 0));
    }

    #[test]
    fn a_place_wins_over_an_objects_own_name() {
        // The objects of ONE live under the id that is TWO's name, and those of TWO under another.
        let mut places = Places::default();
        let mut known: Known = HashMap::from([(TWO, "one's")]);
        let mut foreign: Foreign = HashMap::from([(vec![5], "two's")]);
        places.arrange(vec![(ONE, TWO.cka_id()), (TWO, vec![5])], &mut known, &mut foreign);
        assert_eq!(known, HashMap::from([(ONE, "one's"), (TWO, "two's")]));

        places.arrange(vec![(TWO, vec![6])], &mut known, &mut foreign);
        assert_eq!((known, foreign), (HashMap::from([(ONE, "one's")]), HashMap::from([(vec![5], "two's")])));
        assert_eq!((places.material(&[5]), places.material(&[6])), (None, Some(TWO)));
    }

    #[test]
    fn a_place_can_be_given_up() {
        let (mut places, mut known, mut foreign) = (Places::default(), Known::new(), Foreign::from([(vec![9], "key")]));
        places.arrange(vec![(ONE, vec![9])], &mut known, &mut foreign);
        assert_eq!((known.get(&ONE), places.material(&[9])), (Some(&"key"), Some(ONE)));
        places.give_up(ONE, &mut known, &mut foreign);
        assert_eq!((known.get(&ONE), foreign.get(&vec![9]), places.material(&[9])), (None, Some(&"key"), None));
        places.arrange(vec![(TWO, vec![9])], &mut known, &mut foreign);
        assert_eq!((known.get(&TWO), places.material(&[9])), (Some(&"key"), Some(TWO)));
    }
}
