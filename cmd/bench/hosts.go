package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// hosts is a network of its own on this computer: one network namespace for each node, joined by a bridge on which this
// program has an address too. To cut a host off, its end of the cable is taken down: nothing is refused, everything is
// silently lost, as with a pulled cable.
type hosts struct {
	bridge string
	all    []*host
}

// host is one namespace and its cable.
type host struct {
	space string // name of the namespace
	cable string // name of the end of the cable that is outside
	addr  string // of the host
}

// mayMakeHosts says what is missing for newHosts, if anything.
func mayMakeHosts() error {
	if os.Geteuid() != 0 {
		return usage("--cut makes network namespaces, which only root may do: run it as root, or leave --cut out")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		return usage("--cut makes network namespaces with the program ip: install iproute2, or leave --cut out")
	}
	return nil
}

// newHosts makes a network of n hosts, at most 253. Networks that exist at the same time have different numbers below 36.
func newHosts(ctx context.Context, number, n int) (*hosts, error) {
	if err := mayMakeHosts(); err != nil {
		return nil, err
	}
	// Names hold our process ID, so that two runs cannot meet, and are short enough for an interface (15 bytes).
	id := strconv.Itoa(os.Getpid()) + strconv.FormatInt(int64(number%36), 36)
	prefix := fmt.Sprintf("10.%d.%d.", 200+number%36, os.Getpid()%250)
	h := &hosts{bridge: "cvb" + id}
	steps := []string{"link add " + h.bridge + " type bridge", "addr add " + prefix + "254/24 dev " + h.bridge, "link set " + h.bridge + " up"}
	for i := 1; i <= n; i++ {
		x := &host{space: fmt.Sprintf("cvb%s-%d", id, i), cable: fmt.Sprintf("cvb%s.%d", id, i), addr: prefix + strconv.Itoa(i)}
		h.all = append(h.all, x)
		steps = append(steps, "netns add "+x.space,
			fmt.Sprintf("link add %s type veth peer name eth0 netns %s", x.cable, x.space),
			fmt.Sprintf("link set %s master %s", x.cable, h.bridge), fmt.Sprintf("link set %s up", x.cable),
			fmt.Sprintf("-n %s addr add %s/24 dev eth0", x.space, x.addr),
			fmt.Sprintf("-n %s link set lo up", x.space), fmt.Sprintf("-n %s link set eth0 up", x.space))
	}
	for _, s := range steps {
		if err := ip(ctx, s); err != nil {
			return nil, errors.Join(err, h.remove())
		}
	}
	waiting, cancel := context.WithTimeoutCause(ctx, 10*time.Second, errors.New("10 s have passed"))
	defer cancel()
	for _, x := range h.all {
		err := until(waiting, "host "+x.space+" to answer", func() (bool, error) { return x.answers(), nil })
		if err != nil {
			return nil, errors.Join(err, h.remove())
		}
	}
	return h, nil
}

// answers says whether packets go to the host and back. Nobody listens on the port that is asked: a host that answers refuses,
// a host that is gone says nothing. The kernel looks at the cables of a new bridge up to a second after they are up.
func (h *host) answers() bool {
	c, err := net.DialTimeout("tcp", net.JoinHostPort(h.addr, "9"), time.Second)
	if err == nil {
		c.Close() // somebody listens there, so it answers all the more
		return true
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

func ip(ctx context.Context, args string) error {
	out, err := exec.CommandContext(ctx, "ip", strings.Fields(args)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", args, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// cut takes the host off the network; nothing on it is told.
func (h *host) cut(ctx context.Context) error { return ip(ctx, "link set "+h.cable+" down") }

// heal undoes cut.
func (h *host) heal(ctx context.Context) error { return ip(ctx, "link set "+h.cable+" up") }

// remove takes all of it away. It heeds no context: it is what is done when the context has ended.
func (h *hosts) remove() error {
	if h == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var all []error
	for _, x := range h.all {
		// What was never made is no error here. A cable would go with its namespace, but some time later.
		if _, err := os.Stat("/sys/class/net/" + x.cable); err == nil {
			all = append(all, ip(ctx, "link del "+x.cable))
		}
		if _, err := os.Stat("/run/netns/" + x.space); err == nil {
			all = append(all, ip(ctx, "netns del "+x.space))
		}
	}
	if _, err := os.Stat("/sys/class/net/" + h.bridge); err == nil {
		all = append(all, ip(ctx, "link del "+h.bridge))
	}
	return errors.Join(all...)
}
