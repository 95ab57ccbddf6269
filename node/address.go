package node

import (
	"net"
	"net/netip"
	"os"
	"strings"
)

// URL is where programs of this machine reach the node.
func (n *Node) URL() string {
	host, port, _ := net.SplitHostPort(n.http.Addr().String())
	if ip, err := netip.ParseAddr(host); err != nil || ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port)
}

// reachable gives host:port under which others reach a listener of this machine.
func reachable(bound net.Addr, advertise string) string {
	host, port, _ := net.SplitHostPort(bound.String())
	if advertise != "" {
		return net.JoinHostPort(advertise, port)
	}
	if ip, err := netip.ParseAddr(host); err == nil && !ip.IsUnspecified() {
		return net.JoinHostPort(host, port)
	}
	for _, ip := range ownAddresses() {
		if ip.Is4() && !ip.IsLoopback() && !ip.IsLinkLocalUnicast() {
			return net.JoinHostPort(ip.String(), port)
		}
	}
	return net.JoinHostPort("127.0.0.1", port)
}

// ownAddresses lists the addresses of this machine's interfaces, in their order.
func ownAddresses() []netip.Addr {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var ips []netip.Addr
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok {
				ips = append(ips, ip.Unmap())
			}
		}
	}
	return ips
}

// names are what people may call this machine in a URL: its names and its addresses.
func (n *Node) names() []string {
	names := []string{"localhost", "127.0.0.1", "::1", n.o.Name}
	if host, err := os.Hostname(); err == nil {
		names = append(names, host)
		if short, _, found := strings.Cut(host, "."); found {
			names = append(names, short)
		}
	}
	if n.o.Advertise != "" {
		names = append(names, n.o.Advertise)
	}
	for _, ip := range ownAddresses() {
		names = append(names, ip.String())
	}
	return names
}

// allowedHosts are the values of the Host header that belong to this machine. Anything else is another site's name that
// was made to point here, to use the browser's cookie.
func (n *Node) allowedHosts() []string { return n.names() }
