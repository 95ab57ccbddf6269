package cluster

import (
	"net"
	"testing"

	"github.com/hashicorp/raft"
)

func TestAdvertisedAddress(t *testing.T) {
	port := func(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 8001} }
	for _, c := range []struct {
		name, advertise string
		bound           net.Addr
		want            string
	}{
		{"the user's word", "gpu1.lab", port("0.0.0.0"), "gpu1.lab:8001"},
		{"the bound address", "", port("192.0.2.7"), "192.0.2.7:8001"},
		{"loopback when bound to loopback", "", port("127.0.0.1"), "127.0.0.1:8001"},
		{"version 6", "", port("2001:db8::1"), "[2001:db8::1]:8001"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &Seat{o: Options{Advertise: c.advertise}}
			if got := s.advertised(c.bound, ""); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
	s := &Seat{}
	host, _, err := net.SplitHostPort(s.advertised(port("0.0.0.0"), ""))
	if ip := net.ParseIP(host); err != nil || ip == nil || ip.IsUnspecified() {
		t.Errorf("bound to everything, it advertises %s, %v", host, err)
	}
}

func TestRaftAddressesCarryTheID(t *testing.T) {
	id, hostport, err := splitAddress(address("abc", "[::1]:8001"))
	if err != nil || id != "abc" || hostport != "[::1]:8001" {
		t.Errorf("got %q %q %v", id, hostport, err)
	}
	for _, bad := range []string{"", "host:1", "@host:1", "id@"} {
		if _, _, err := splitAddress(raft.ServerAddress(bad)); err == nil {
			t.Errorf("address %q was accepted", bad)
		}
	}
}
