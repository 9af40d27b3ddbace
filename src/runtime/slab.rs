//! Places that are taken and given back, and lists through them: many queues in one memory, so that a queue which is
//! empty holds none of it.

/// No place.
const NONE: u32 = u32::MAX;

/// Places for `T`. Their memory is that of the most there ever were at once, and is reused.
#[derive(Debug)]
pub struct Slab<T> {
    places: Vec<Place<T>>,
    free: List,
}

#[derive(Debug)]
struct Place<T> {
    value: Option<T>,
    /// The next one of the list that this place is on.
    next: u32,
}

/// Memory of a place.
pub(super) const fn place_bytes<T>() -> usize {
    size_of::<Place<T>>()
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { places: Vec::new(), free: List::default() }
    }
}

impl<T> Slab<T> {
    /// Finds a place for `value`.
    pub(super) fn insert(&mut self, value: T) -> u32 {
        let mut free = self.free;
        let id = free.pop_front(self).unwrap_or_else(|| {
            self.places.push(Place { value: None, next: NONE });
            self.places.len() as u32 - 1
        });
        self.free = free;
        self.places[id as usize].value = Some(value);
        id
    }

    /// Takes out what is at a place that is on no list.
    pub(super) fn remove(&mut self, id: u32) -> Option<T> {
        let value = self.places.get_mut(id as usize)?.value.take()?;
        let mut free = self.free;
        // The next one has the place that was in use last: it is still in a core's cache.
        free.push_front(self, id);
        self.free = free;
        Some(value)
    }

    /// Places that there are, taken or free.
    #[cfg(test)]
    pub(super) fn places(&self) -> usize {
        self.places.len()
    }

    /// What is at a place.
    pub(super) fn get(&self, id: u32) -> Option<&T> {
        self.places.get(id as usize)?.value.as_ref()
    }

    /// The same, to be changed.
    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut T> {
        self.places.get_mut(id as usize)?.value.as_mut()
    }
}

/// Places of one slab in an order. A place is on one list at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    head: u32,
    tail: u32,
}

impl Default for List {
    fn default() -> Self {
        Self { head: NONE, tail: NONE }
    }
}

impl List {
    pub(super) fn is_empty(&self) -> bool {
        self.head == NONE
    }

    pub(super) fn front(&self) -> Option<u32> {
        (!self.is_empty()).then_some(self.head)
    }

    pub(super) fn push_back<T>(&mut self, slab: &mut Slab<T>, id: u32) {
        slab.places[id as usize].next = NONE;
        if self.is_empty() {
            self.head = id;
        } else {
            slab.places[self.tail as usize].next = id;
        }
        self.tail = id;
    }

    fn push_front<T>(&mut self, slab: &mut Slab<T>, id: u32) {
        slab.places[id as usize].next = self.head;
        if self.is_empty() {
            self.tail = id;
        }
        self.head = id;
    }

    pub(super) fn pop_front<T>(&mut self, slab: &mut Slab<T>) -> Option<u32> {
        let id = self.front()?;
        self.head = slab.places[id as usize].next;
        Some(id)
    }

    /// All places, from the front on.
    pub(super) fn iter<T>(self, slab: &Slab<T>) -> impl Iterator<Item = u32> {
        std::iter::successors(self.front(), |id| {
            let next = slab.places[*id as usize].next;
            (next != NONE).then_some(next)
        })
    }
}
