package main

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestACutHostIsSilent makes two hosts, as root; anybody else is told that only root can.
func TestACutHostIsSilent(t *testing.T) {
	if os.Geteuid() != 0 {
		var out, errs bytes.Buffer
		if code := run([]string{"failover", "--cut"}, &out, &errs); code != 2 || !strings.Contains(errs.String(), "root") {
			t.Errorf("code %d, %q", code, errs.String())
		}
		return
	}
	h, err := newHosts(t.Context(), 2)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.remove(); err != nil {
			t.Error(err)
		}
		if out, _ := exec.Command("ip", "link", "show").Output(); strings.Contains(string(out), h.bridge) {
			t.Errorf("left behind:\n%s", out)
		}
	})
	// Nobody listens: a host that answers refuses, a host that is gone says nothing.
	refused := func(x *host) bool {
		c, err := net.DialTimeout("tcp", net.JoinHostPort(x.addr, "9"), 300*time.Millisecond)
		if err == nil {
			c.Close()
			t.Errorf("somebody listens on %s", x.addr)
		}
		return err != nil && strings.Contains(err.Error(), "refused")
	}
	if !refused(h.all[0]) || !refused(h.all[1]) {
		t.Fatal("the hosts do not answer")
	}
	if err := h.all[0].cut(t.Context()); err != nil {
		t.Fatal(err)
	}
	if refused(h.all[0]) {
		t.Error("the host that was cut off answers")
	}
	if !refused(h.all[1]) {
		t.Error("the other host was cut off too")
	}
	if err := h.all[0].heal(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := until(t.Context(), "the host to answer again", func() (bool, error) { return refused(h.all[0]), nil }); err != nil {
		t.Error(err)
	}
}
