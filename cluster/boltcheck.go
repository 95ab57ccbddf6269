package cluster

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
)

// This file reads a bbolt file without bbolt. bbolt checksums nothing but its two meta pages, reads everything else through
// a memory map, and panics in a goroutine of its own on a page that makes no sense: a damaged file can then only end the
// process without a word. Here every number is checked before it is used, and every byte that bbolt would look at must be
// where bbolt would have written it.

const (
	boltMagic    = 0xED0CDAED
	boltVersion  = 2
	boltHeader   = 16 // of a page: id, flags, count, overflow
	boltElement  = 16 // of a leaf or branch page, both kinds
	boltMetaSize = 64 // up to and with its checksum
	boltBranch   = 0x01
	boltLeaf     = 0x02
	boltMetaFlag = 0x04
	boltBucket   = 0x01 // flag of a leaf element whose value is a bucket
	boltDepth    = 64   // no tree of 2^48 pages is deeper
	boltMaxPage  = 64 << 10
)

// boltFile is one bbolt file being walked.
type boltFile struct {
	r        io.ReaderAt
	size     int64
	pageSize int64
	root     uint64
	pages    uint64 // high water mark
	seen     map[uint64]bool
	// lenient goes on behind a page that cannot be read, and takes the one meta page that can.
	lenient bool
	visit   func(bucket string, key, value []byte) error
}

// walkBolt checks the structure of a bbolt file and hands every key and value to visit, in the order of the keys. An error
// of visit ends the walk. lenient is for saving what can be saved: whatever is damaged is passed over.
func walkBolt(ctx context.Context, r io.ReaderAt, size int64, lenient bool, visit func(bucket string, key, value []byte) error) error {
	f := &boltFile{r: r, size: size, seen: map[uint64]bool{}, lenient: lenient, visit: visit}
	if err := f.readMeta(); err != nil {
		return err
	}
	return f.walkRoot(ctx)
}

// readMeta reads both meta pages. Both must be whole: bbolt goes on with the older one if the newer is not, and so forgets
// what was acknowledged last.
func (f *boltFile) readMeta() error {
	best, bad := uint64(0), error(nil)
	found := false
	for i := range 2 {
		m, err := f.meta(int64(i))
		if err != nil {
			bad = errors.Join(bad, fmt.Errorf("meta page %d: %w", i, err))
			continue
		}
		if found && m.pageSize != f.pageSize {
			return errors.New("meta pages of two sizes")
		}
		if !found || m.txid > best {
			best, f.pageSize, f.root, f.pages = m.txid, m.pageSize, m.root, m.pages
		}
		found = true
	}
	if !found || bad != nil && !f.lenient {
		return bad
	}
	if f.pages < 2 || f.pages > uint64(f.size/f.pageSize) {
		if !f.lenient {
			return fmt.Errorf("%d pages of %d bytes in a file of %d bytes: it was cut off", f.pages, f.pageSize, f.size)
		}
		f.pages = uint64(f.size / f.pageSize)
	}
	return nil
}

type boltMeta struct {
	pageSize          int64
	root, pages, txid uint64
}

// meta reads meta page i. Where page 1 begins depends on the page size, which is tried from the smallest on when page 0
// did not tell it.
func (f *boltFile) meta(i int64) (boltMeta, error) {
	if i == 0 || f.pageSize != 0 {
		return f.metaAt(i, i*f.pageSize)
	}
	err := errors.New("not found")
	for size := int64(1024); size <= boltMaxPage; size *= 2 {
		var m boltMeta
		if m, err = f.metaAt(i, size); err == nil && m.pageSize == size {
			return m, nil
		}
	}
	return boltMeta{}, err
}

func (f *boltFile) metaAt(i, offset int64) (boltMeta, error) {
	buf := make([]byte, boltHeader+boltMetaSize)
	if _, err := f.r.ReadAt(buf, offset); err != nil {
		return boltMeta{}, err
	}
	le := binary.NativeEndian
	b := buf[boltHeader:]
	sum := fnv.New64a()
	sum.Write(b[:boltMetaSize-8])
	m := boltMeta{pageSize: int64(le.Uint32(b[8:])), root: le.Uint64(b[16:]), pages: le.Uint64(b[40:]), txid: le.Uint64(b[48:])}
	switch {
	case le.Uint64(buf) != uint64(i) || le.Uint16(buf[8:]) != boltMetaFlag:
		return m, errors.New("its header is wrong")
	case le.Uint32(b) != boltMagic || le.Uint32(b[4:]) != boltVersion:
		return m, errors.New("it is not of a bbolt file")
	case le.Uint64(b[56:]) != sum.Sum64():
		return m, errors.New("its checksum is wrong")
	case m.pageSize < 1024 || m.pageSize > boltMaxPage || m.pageSize&(m.pageSize-1) != 0:
		return m, fmt.Errorf("pages of %d bytes", m.pageSize)
	}
	return m, nil
}

// walkRoot visits the buckets of the root.
func (f *boltFile) walkRoot(ctx context.Context) error {
	return f.walkPage(ctx, f.root, nil, nil, 0, func(flags uint32, key, value []byte) error {
		if flags != boltBucket || len(value) < 16 {
			return f.pass(fmt.Errorf("%q in the root is no bucket", key))
		}
		name := string(key)
		leaf := func(flags uint32, k, v []byte) error {
			if flags != 0 {
				return f.pass(fmt.Errorf("a bucket inside of bucket %s", name))
			}
			return f.visit(name, k, v)
		}
		if root := binary.NativeEndian.Uint64(value); root != 0 {
			return f.walkPage(ctx, root, nil, nil, 0, leaf)
		}
		// A small bucket is a page inside of its value.
		page, err := parsePage(value[16:], 0)
		if err == nil && page.flags != boltLeaf {
			err = errors.New("not a leaf")
		}
		if err == nil {
			err = page.inOrder(nil, nil)
		}
		if err != nil {
			return f.pass(fmt.Errorf("bucket %s: %w", name, err))
		}
		return page.each(leaf)
	})
}

// pass passes over damage if that is wanted.
func (f *boltFile) pass(err error) error {
	if f.lenient {
		return nil
	}
	return err
}

// boltPage is a page whose elements lie inside of it, one behind the other.
type boltPage struct {
	flags uint16
	count int
	data  []byte
}

// parsePage checks the layout: bbolt writes all elements, and behind them all keys and values without a gap. A count that
// is one too small is found by it, which would else make the newest entry of a log vanish.
func parsePage(data []byte, id uint64) (boltPage, error) {
	if len(data) < boltHeader {
		return boltPage{}, errors.New("shorter than its header")
	}
	le := binary.NativeEndian
	p := boltPage{flags: le.Uint16(data[8:]), count: int(le.Uint16(data[10:])), data: data}
	if le.Uint64(data) != id {
		return p, fmt.Errorf("it says that it is page %d", le.Uint64(data))
	}
	if p.flags != boltBranch && p.flags != boltLeaf {
		return p, fmt.Errorf("its type is %#x", p.flags)
	}
	if p.flags == boltBranch && p.count == 0 {
		return p, errors.New("a branch without children")
	}
	next := uint64(boltHeader + p.count*boltElement)
	for i := range p.count {
		at, key, value := p.element(i)
		if at != next || key == 0 || at+key+value > uint64(len(data)) {
			return p, fmt.Errorf("element %d lies where none can be", i)
		}
		next = at + key + value
	}
	return p, nil
}

// element gives where the key of element i begins, and the sizes of key and value.
func (p boltPage) element(i int) (at, key, value uint64) {
	start := boltHeader + i*boltElement
	if start+boltElement > len(p.data) {
		return 0, 0, 0
	}
	e, le := p.data[start:], binary.NativeEndian
	if p.flags == boltBranch {
		return uint64(start) + uint64(le.Uint32(e)), uint64(le.Uint32(e[4:])), 0
	}
	return uint64(start) + uint64(le.Uint32(e[4:])), uint64(le.Uint32(e[8:])), uint64(le.Uint32(e[12:]))
}

func (p boltPage) key(i int) []byte {
	at, size, _ := p.element(i)
	return p.data[at : at+size]
}

func (p boltPage) child(i int) uint64 {
	return binary.NativeEndian.Uint64(p.data[boltHeader+i*boltElement+8:])
}

// inOrder checks that the keys grow, from low (may be equal to it) to below high; nil is no bound.
func (p boltPage) inOrder(low, high []byte) error {
	last := low
	for i := range p.count {
		k := p.key(i)
		if c := bytes.Compare(last, k); last != nil && (c > 0 || c == 0 && i > 0) || high != nil && bytes.Compare(k, high) >= 0 {
			return fmt.Errorf("key %d is out of order", i)
		}
		last = k
	}
	return nil
}

func (p boltPage) each(leaf func(flags uint32, key, value []byte) error) error {
	for i := range p.count {
		at, key, value := p.element(i)
		flags := binary.NativeEndian.Uint32(p.data[boltHeader+i*boltElement:])
		if err := leaf(flags, p.data[at:at+key], p.data[at+key:at+key+value]); err != nil {
			return err
		}
	}
	return nil
}

// walkPage visits what lies below page id, whose keys must be within low and high.
func (f *boltFile) walkPage(ctx context.Context, id uint64, low, high []byte, depth int, leaf func(flags uint32, key, value []byte) error) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	p, err := f.readPage(id, depth)
	if err == nil {
		err = p.inOrder(low, high)
	}
	if err != nil {
		return f.pass(fmt.Errorf("page %d: %w", id, err))
	}
	if p.flags == boltLeaf {
		return p.each(leaf)
	}
	for i := range p.count {
		below := high
		if i+1 < p.count {
			below = p.key(i + 1)
		}
		if err := f.walkPage(ctx, p.child(i), p.key(i), below, depth+1, leaf); err != nil {
			return err
		}
	}
	return nil
}

func (f *boltFile) readPage(id uint64, depth int) (boltPage, error) {
	if id < 2 || id >= f.pages || depth > boltDepth {
		return boltPage{}, errors.New("it is outside of the file")
	}
	header := make([]byte, boltHeader)
	if _, err := f.r.ReadAt(header, int64(id)*f.pageSize); err != nil {
		return boltPage{}, err
	}
	overflow := uint64(binary.NativeEndian.Uint32(header[12:]))
	if overflow >= f.pages-id {
		return boltPage{}, errors.New("it reaches beyond the end of the file")
	}
	for n := id; n <= id+overflow; n++ {
		if f.seen[n] {
			return boltPage{}, errors.New("two pages point to it")
		}
		f.seen[n] = true
	}
	data := make([]byte, int64(overflow+1)*f.pageSize)
	if _, err := f.r.ReadAt(data, int64(id)*f.pageSize); err != nil {
		return boltPage{}, err
	}
	return parsePage(data, id)
}
