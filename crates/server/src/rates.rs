//! How often one may ask: a bucket of permissions for each token and each address, in the memory of this server.

use std::{
    collections::HashMap,
    hash::Hash,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::config::{Rate, Rates};

/// Most buckets of a kind. Who comes when there are more shares one with all others who do.
const MAX_BUCKETS: usize = 65_536;
/// Least time between two looks for full buckets, which need not be kept.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// What this server takes; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Limiter {
    tokens: Arc<Buckets<String>>,
    addresses: Arc<Buckets<IpAddr>>,
}

impl Limiter {
    pub(crate) fn new(rates: Rates) -> Self {
        Self { tokens: Arc::new(Buckets::new(rates.token)), addresses: Arc::new(Buckets::new(rates.address)) }
    }

    /// Counts a request of a token; else the seconds until there is room.
    pub(crate) fn token(&self, id: &str) -> Result<(), u64> {
        self.tokens.take(id.to_owned(), Instant::now())
    }

    /// The same of an address.
    pub(crate) fn address(&self, address: IpAddr) -> Result<(), u64> {
        self.addresses.take(network(address), Instant::now())
    }
}

/// Whoever has an IPv6 network has as many addresses as he likes.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let mut octets = v6.octets();
            octets[8..].fill(0);
            IpAddr::V6(octets.into())
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[derive(Debug)]
struct Buckets<K> {
    rate: Rate,
    inner: Mutex<Inner<K>>,
}

#[derive(Debug)]
struct Inner<K> {
    buckets: HashMap<K, Bucket>,
    /// Of all for whom there was no room.
    others: Option<Bucket>,
    swept: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl<K: Eq + Hash> Buckets<K> {
    fn new(rate: Rate) -> Self {
        Self { rate, inner: Mutex::new(Inner { buckets: HashMap::new(), others: None, swept: None }) }
    }

    fn take(&self, key: K, now: Instant) -> Result<(), u64> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let Inner { buckets, others, swept } = &mut *inner;
        if buckets.len() >= MAX_BUCKETS && swept.is_none_or(|swept| now - swept >= SWEEP_EVERY) {
            // A full bucket is like none.
            buckets.retain(|_, bucket| bucket.filled(self.rate, now) < f64::from(self.rate.burst));
            *swept = Some(now);
        }
        let fresh = Bucket { left: f64::from(self.rate.burst), at: now };
        let bucket = if buckets.len() < MAX_BUCKETS || buckets.contains_key(&key) {
            buckets.entry(key).or_insert(fresh)
        } else {
            others.get_or_insert(fresh)
        };
        bucket.take(self.rate, now)
    }
}

impl Bucket {
    fn filled(&self, rate: Rate, now: Instant) -> f64 {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        (self.left + since * f64::from(rate.per_s)).min(f64::from(rate.burst))
    }

    fn take(&mut self, rate: Rate, now: Instant) -> Result<(), u64> {
        let left = self.filled(rate, now);
        self.at = now;
        if left >= 1.0 {
            self.left = left - 1.0;
            return Ok(());
        }
        self.left = left;
        Err(((1.0 - left) / f64::from(rate.per_s)).ceil().max(1.0) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_s: 2, burst: 3 };

    #[test]
    fn a_burst_is_taken_and_then_the_rate() {
        let buckets = Buckets::new(RATE);
        let begin = Instant::now();
        for _ in 0..3 {
            assert_eq!(buckets.take("a", begin), Ok(()));
        }
        assert_eq!(buckets.take("a", begin), Err(1));
        assert_eq!(buckets.take("b", begin), Ok(()), "another one has a bucket of its own");
        let later = begin + Duration::from_millis(500);
        assert_eq!(buckets.take("a", later), Ok(()));
        assert_eq!(buckets.take("a", later), Err(1));
        let much_later = begin + Duration::from_secs(3600);
        assert_eq!((0..10).filter(|_| buckets.take("a", much_later).is_ok()).count(), 3, "no more than the burst is saved up");
        // A clock that seems to go back takes nothing away and gives nothing.
        assert_eq!(buckets.take("a", begin), Err(1));
    }

    #[test]
    fn more_askers_than_buckets_share_one() {
        let buckets = Buckets::new(RATE);
        let now = Instant::now();
        let taken = (0..MAX_BUCKETS + 10).filter(|number| buckets.take(*number, now).is_ok()).count();
        assert_eq!(taken, MAX_BUCKETS + 3, "the last ten had one bucket among them");
        let later = now + Duration::from_secs(2);
        assert_eq!(buckets.take(MAX_BUCKETS + 99, later), Ok(()), "full ones are forgotten");
        assert_eq!(buckets.inner.lock().unwrap().buckets.len(), 1);
    }

    #[test]
    fn addresses_of_one_network_share_a_bucket() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }
}
