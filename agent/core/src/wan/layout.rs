//! Sites, their addresses, and what each link between two of them has at first.

use super::profile::{Profile, UnknownProfile, find};
use std::{fmt, net::Ipv4Addr, str::FromStr};

/// Most sites of one emulator. The links grow with the square of it, and each is looked at
/// whenever a packet moves.
pub const MAX_SITES: usize = 16;
/// Longest name of a site, in bytes.
pub const MAX_SITE_NAME: usize = 32;
/// The profile of a site whose name is not that of a profile.
const DEFAULT_PROFILE: &str = "datacenter";

/// A range of IPv4 addresses, such as `10.77.1.0/24`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Prefix {
    network: u32,
    length: u32,
}

impl Prefix {
    /// The range of the site with this number, counted from 0: `10.77.N.0/24`, N from 1.
    fn of_site(index: usize) -> Self {
        let third = u8::try_from(index + 1).unwrap_or(u8::MAX);
        Self { network: Ipv4Addr::new(10, 77, third, 0).to_bits(), length: 24 }
    }

    /// Whether the address is in the range.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        address.to_bits() & self.mask() == self.network
    }

    /// The first address that a host may have.
    pub fn first_host(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network | 1)
    }

    /// Number of leading bits that all addresses share.
    pub fn length(&self) -> u32 {
        self.length
    }

    fn mask(&self) -> u32 {
        u32::MAX.checked_shl(32 - self.length).unwrap_or(0)
    }

    fn overlaps(&self, other: &Self) -> bool {
        (self.network ^ other.network) & self.mask() & other.mask() == 0
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from_bits(self.network), self.length)
    }
}

impl FromStr for Prefix {
    type Err = LayoutError;

    fn from_str(text: &str) -> Result<Self, LayoutError> {
        let bad = || LayoutError::Prefix(text.to_owned());
        let (address, length) = text.split_once('/').ok_or_else(bad)?;
        let address: Ipv4Addr = address.parse().map_err(|_| bad())?;
        let length: u32 = length.parse().map_err(|_| bad())?;
        let prefix = Self { network: address.to_bits(), length };
        // A prefix of length 0 would be everywhere, and host bits hint at a mistake.
        if !(1..=32).contains(&length) || prefix.network & !prefix.mask() != 0 {
            return Err(bad());
        }
        Ok(prefix)
    }
}

/// What a person says of a site: `NAME`, `NAME=PROFILE`, `NAME=PREFIX` or `NAME=PREFIX=PROFILE`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SiteSpec {
    /// Its name.
    pub name: String,
    /// Its addresses, when they are not the emulator's to choose.
    pub prefix: Option<Prefix>,
    /// Its profile. Without one, that of the same name, else `datacenter`.
    pub profile: Option<&'static Profile>,
}

impl FromStr for SiteSpec {
    type Err = LayoutError;

    fn from_str(text: &str) -> Result<Self, LayoutError> {
        let mut parts = text.split('=');
        let name = parts.next().unwrap_or_default().to_owned();
        check_name(&name)?;
        let mut spec = Self { name, prefix: None, profile: None };
        for part in parts {
            if part.contains('/') && spec.prefix.is_none() && spec.profile.is_none() {
                spec.prefix = Some(part.parse()?);
            } else if spec.profile.is_none() {
                spec.profile = Some(find(part)?);
            } else {
                return Err(LayoutError::Site(text.to_owned()));
            }
        }
        Ok(spec)
    }
}

fn check_name(name: &str) -> Result<(), LayoutError> {
    let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    let good = (1..=MAX_SITE_NAME).contains(&name.len())
        && name.bytes().all(allowed)
        && !name.starts_with('-')
        && name != ALL;
    if good { Ok(()) } else { Err(LayoutError::Name(name.to_owned())) }
}

/// What a person says of a link: `A:B=PROFILE`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkSpec {
    /// The two sites.
    pub ends: (String, String),
    /// What their link has instead of the worse of their profiles.
    pub profile: &'static Profile,
}

impl FromStr for LinkSpec {
    type Err = LayoutError;

    fn from_str(text: &str) -> Result<Self, LayoutError> {
        let parts = text.split_once('=').and_then(|(ends, profile)| {
            let (a, b) = ends.split_once(':')?;
            Some((a, b, profile))
        });
        let (a, b, profile) = parts.ok_or_else(|| LayoutError::Link(text.to_owned()))?;
        Ok(Self { ends: (a.to_owned(), b.to_owned()), profile: find(profile)? })
    }
}

/// A site.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Site {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub prefix: Prefix,
    profile: &'static Profile,
}

/// A link between two sites, by their numbers, the smaller first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// One end.
    pub a: usize,
    /// The other end.
    pub b: usize,
    /// What it has at first, and again after a reset.
    pub profile: &'static Profile,
}

/// The sites of an emulator and their links: each with each.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    sites: Vec<Site>,
    links: Vec<Link>,
}

/// Why there is no such layout.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LayoutError {
    /// Too few or too many sites.
    #[error("there must be 2 to {MAX_SITES} sites, not {0}")]
    Count(usize),
    /// A name that cannot be one.
    #[error(
        "`{0}` cannot name a site: 1 to {MAX_SITE_NAME} of a-z, 0-9 and -, not - first, not `{ALL}`"
    )]
    Name(String),
    /// Two sites of one name.
    #[error("there are two sites `{0}`")]
    Twice(String),
    /// No profile of this name.
    #[error(transparent)]
    Profile(#[from] UnknownProfile),
    /// No range of addresses.
    #[error("`{0}` is not a range of IPv4 addresses such as 172.30.1.0/24")]
    Prefix(String),
    /// Addresses that could be of either site.
    #[error("the addresses of `{0}` and `{1}` overlap")]
    Overlap(String, String),
    /// Not what is said of a site.
    #[error("`{0}` does not describe a site: NAME, NAME=PROFILE or NAME=PREFIX=PROFILE")]
    Site(String),
    /// Not what is said of a link.
    #[error("`{0}` does not describe a link: A:B=PROFILE")]
    Link(String),
    /// A link to nowhere.
    #[error(transparent)]
    Unknown(#[from] UnknownTarget),
}

/// No site or link has this name.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("there is no site or link `{name}`; the sites are {sites}, a link is written A:B")]
pub struct UnknownTarget {
    name: String,
    sites: String,
}

impl Layout {
    /// Lays out the sites. A link has the worse of the profiles of its two sites, so that
    /// `origin=datacenter` is as far from each other site as that site's profile says; `links`
    /// says otherwise for some.
    ///
    /// # Errors
    /// What is wrong with the names, numbers or addresses.
    pub fn new(sites: &[SiteSpec], links: &[LinkSpec]) -> Result<Self, LayoutError> {
        if !(2..=MAX_SITES).contains(&sites.len()) {
            return Err(LayoutError::Count(sites.len()));
        }
        let mut layout = Self { sites: Vec::new(), links: Vec::new() };
        for (index, spec) in sites.iter().enumerate() {
            check_name(&spec.name)?;
            let prefix = spec.prefix.unwrap_or_else(|| Prefix::of_site(index));
            for other in &layout.sites {
                if other.name == spec.name {
                    return Err(LayoutError::Twice(spec.name.clone()));
                }
                if other.prefix.overlaps(&prefix) {
                    return Err(LayoutError::Overlap(other.name.clone(), spec.name.clone()));
                }
            }
            let profile = match spec.profile {
                Some(profile) => profile,
                None => find(&spec.name).or_else(|_| find(DEFAULT_PROFILE))?,
            };
            layout.sites.push(Site { name: spec.name.clone(), prefix, profile });
        }
        for a in 0..sites.len() {
            for b in a + 1..sites.len() {
                let profile = layout.sites[a].profile.worse(layout.sites[b].profile);
                layout.links.push(Link { a, b, profile });
            }
        }
        for LinkSpec { ends: (a, b), profile } in links {
            for index in layout.select(&Target::Link(a.clone(), b.clone()))? {
                layout.links[index].profile = profile;
            }
        }
        Ok(layout)
    }

    /// The sites, in the order in which they were said.
    pub fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// The links.
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// What a link is called: `A:B`.
    pub fn link_name(&self, link: &Link) -> String {
        format!("{}:{}", self.sites[link.a].name, self.sites[link.b].name)
    }

    /// The number of the site that has this address.
    pub fn site_of(&self, address: Ipv4Addr) -> Option<usize> {
        self.sites.iter().position(|site| site.prefix.contains(address))
    }

    /// The numbers of the links that are meant.
    ///
    /// # Errors
    /// When there is no such site or link.
    pub fn select(&self, target: &Target) -> Result<Vec<usize>, UnknownTarget> {
        let unknown = || UnknownTarget {
            name: target.to_string(),
            sites: self.sites.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(", "),
        };
        let number = |name: &str| self.sites.iter().position(|site| site.name == name);
        let all = self.links.iter().enumerate();
        let selected: Vec<_> = match target {
            Target::All => all.map(|(index, _)| index).collect(),
            Target::Site(name) => {
                let site = number(name).ok_or_else(unknown)?;
                all.filter(|(_, link)| link.a == site || link.b == site).map(|(i, _)| i).collect()
            }
            Target::Link(a, b) => {
                let (a, b) = number(a).zip(number(b)).ok_or_else(unknown)?;
                all.filter(|(_, link)| (link.a, link.b) == (a.min(b), a.max(b)))
                    .map(|(i, _)| i)
                    .collect()
            }
        };
        // A site has no link to itself.
        if selected.is_empty() { Err(unknown()) } else { Ok(selected) }
    }
}

/// The target that is not a name.
const ALL: &str = "all";

/// Which links are meant: `all`, `SITE` for all of its links, or `A:B` for one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// Every link.
    All,
    /// Every link of a site.
    Site(String),
    /// The link between two sites, in either order.
    Link(String, String),
}

impl From<&str> for Target {
    fn from(text: &str) -> Self {
        match text.split_once(':') {
            Some((a, b)) => Self::Link(a.to_owned(), b.to_owned()),
            None if text == ALL => Self::All,
            None => Self::Site(text.to_owned()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str(ALL),
            Self::Site(name) => f.write_str(name),
            Self::Link(a, b) => write!(f, "{a}:{b}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn layout(sites: &[&str], links: &[&str]) -> Result<Layout, LayoutError> {
        let sites = sites.iter().map(|text| text.parse()).collect::<Result<Vec<_>, _>>()?;
        let links = links.iter().map(|text| text.parse()).collect::<Result<Vec<_>, _>>()?;
        Layout::new(&sites, &links)
    }

    fn profiles(layout: &Layout) -> Vec<(String, &'static str)> {
        layout.links().iter().map(|link| (layout.link_name(link), link.profile.name)).collect()
    }

    #[test]
    fn a_link_has_the_worse_profile_of_its_sites_unless_said_otherwise() {
        let sites = ["us-east", "us-west", "office=datacenter", "home"];
        let layout = layout(&sites, &["home:us-west=lossy"]).unwrap();
        let named = [
            ("us-east:us-west", "us-west"),
            ("us-east:office", "us-east"),
            ("us-east:home", "us-east"),
            ("us-west:office", "us-west"),
            ("us-west:home", "lossy"),
            ("office:home", "datacenter"),
        ];
        assert_eq!(profiles(&layout), named.map(|(link, profile)| (link.to_owned(), profile)));
    }

    #[test]
    fn addresses_lead_to_sites() {
        let chosen = layout(&["a", "b"], &[]).unwrap();
        assert_eq!(chosen.site_of(Ipv4Addr::new(10, 77, 2, 9)), Some(1));
        assert_eq!(chosen.site_of(Ipv4Addr::new(10, 77, 3, 9)), None);
        assert_eq!(chosen.sites()[0].prefix.first_host(), Ipv4Addr::new(10, 77, 1, 1));
        let given = layout(&["a=172.30.1.0/24", "b=172.30.2.128/25=lossy"], &[]).unwrap();
        assert_eq!(given.site_of(Ipv4Addr::new(172, 30, 2, 200)), Some(1));
        assert_eq!(given.site_of(Ipv4Addr::new(172, 30, 2, 100)), None);
        assert_eq!(given.links()[0].profile.name, "lossy");
    }

    #[test]
    fn targets_select_links() {
        let layout = layout(&["a", "b", "c"], &[]).unwrap();
        let select = |text: &str| layout.select(&Target::from(text));
        assert_eq!(select("all"), Ok(vec![0, 1, 2]));
        assert_eq!(select("b"), Ok(vec![0, 2]));
        assert_eq!(select("c:a"), Ok(vec![1]));
        for nothing in ["d", "a:d", "a:a", "", "a:b:c"] {
            let said = select(nothing).unwrap_err().to_string();
            assert!(said.contains("a, b, c"), "{said}");
        }
    }

    #[test]
    fn wrong_layouts_are_refused_with_what_is_wrong() {
        let refused = |sites: &[&str], links: &[&str]| layout(sites, links).unwrap_err();
        assert_eq!(refused(&["a"], &[]), LayoutError::Count(1));
        assert!(matches!(refused(&["a", "A"], &[]), LayoutError::Name(_)));
        assert!(matches!(refused(&["a", "all"], &[]), LayoutError::Name(_)));
        assert!(matches!(refused(&["a", "b/../c"], &[]), LayoutError::Name(_)));
        assert!(matches!(refused(&["a", "a"], &[]), LayoutError::Twice(_)));
        assert!(matches!(refused(&["a", "b=moon"], &[]), LayoutError::Profile(_)));
        assert!(matches!(refused(&["a", "b=10.0.0.1/24"], &[]), LayoutError::Prefix(_)));
        assert!(matches!(refused(&["a=10.0.0.0/8", "b"], &[]), LayoutError::Overlap(..)));
        assert!(matches!(refused(&["a", "b=cut=cut"], &[]), LayoutError::Site(_)));
        assert!(matches!(refused(&["a", "b"], &["a-b=cut"]), LayoutError::Link(_)));
        assert!(matches!(refused(&["a", "b"], &["a:c=cut"]), LayoutError::Unknown(_)));
        let many: Vec<_> = (0..=MAX_SITES).map(|i| format!("s{i}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert_eq!(refused(&many, &[]), LayoutError::Count(MAX_SITES + 1));
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "\\PC{0,60}") {
            let _ = text.parse::<SiteSpec>();
            let _ = text.parse::<LinkSpec>();
            if let Ok(prefix) = text.parse::<Prefix>() {
                prop_assert_eq!(prefix.to_string().parse(), Ok(prefix));
            }
        }

        #[test]
        fn a_prefix_is_what_it_was_written_as(bits: u32, length in 1..=32u32) {
            let network = bits & (u32::MAX << (32 - length));
            let text = format!("{}/{length}", Ipv4Addr::from_bits(network));
            let prefix: Prefix = text.parse().unwrap();
            prop_assert_eq!(prefix.to_string(), text);
            prop_assert!(prefix.contains(Ipv4Addr::from_bits(bits)));
        }
    }
}
