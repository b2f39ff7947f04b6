package dockerd

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Image is what an image says itself of the containers made from it. It never changes:
// its ID is the hash of that.
type Image struct {
	Labels map[string]string
	// Env holds KEY=VALUE.
	Env []string
}

const (
	// mostImages bounds the images that are remembered.
	mostImages = 1024
	// maxImage bounds what the engine says of one, in bytes.
	maxImage = 4 << 20
	// imageRetry is how long an image that could not be asked for is not asked for again.
	imageRetry = time.Second
)

// images remembers those that were asked for.
type images struct {
	mu  sync.Mutex
	all map[string]*askedImage
}

type askedImage struct {
	done  chan struct{} // closed when the rest is known
	image *Image
	err   error
	at    time.Time
}

var errNoImage = errors.New("the container's image is not known")

// Image is the image of that ID (Container.ImageID). Who asks while somebody else does,
// waits for the same answer.
func (w *Watcher) Image(ctx context.Context, id string) (*Image, error) {
	if id == "" {
		return nil, errNoImage
	}
	asked := w.askImage(id)
	select {
	case <-asked.done:
		return asked.image, asked.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// KnowsImage reports whether Image would answer at once, and well.
func (w *Watcher) KnowsImage(id string) bool {
	w.images.mu.Lock()
	defer w.images.mu.Unlock()
	asked := w.images.all[id]
	return asked != nil && asked.answered() && asked.err == nil
}

func (a *askedImage) answered() bool {
	select {
	case <-a.done:
		return true
	default:
		return false
	}
}

// hasFailed reports whether it is worth asking again.
func (a *askedImage) hasFailed() bool {
	return a.answered() && a.err != nil && time.Since(a.at) > imageRetry
}

// askImage is the answer of an image that is known or asked for, after asking for it if
// it is neither. It does not wait.
func (w *Watcher) askImage(id string) *askedImage {
	w.images.mu.Lock()
	defer w.images.mu.Unlock()
	if asked := w.images.all[id]; asked != nil && !asked.hasFailed() {
		return asked
	}
	if w.images.all == nil {
		w.images.all = map[string]*askedImage{}
	}
	for other, asked := range w.images.all {
		if len(w.images.all) < mostImages {
			break
		}
		if asked.answered() {
			delete(w.images.all, other)
		}
	}
	asked := &askedImage{done: make(chan struct{})}
	w.images.all[id] = asked
	go w.engine.answerImage(id, asked)
	return asked
}

// answerImage asks the engine, within its own time.
func (e *engine) answerImage(id string, asked *askedImage) {
	defer close(asked.done)
	asked.image, asked.err = e.image(context.Background(), id)
	asked.at = time.Now()
}

// image asks for one image.
func (e *engine) image(ctx context.Context, id string) (*Image, error) {
	ctx, cancel := withTimeout(ctx, e.inspectTimeout)
	defer cancel()
	body, err := e.get(ctx, "/images/"+url.PathEscape(id)+"/json")
	if err != nil {
		return nil, e.explain(ctx, "inspecting an image", err)
	}
	defer body.Close()
	var answer struct{ Config *Image }
	if err := json.NewDecoder(io.LimitReader(body, maxImage)).Decode(&answer); err != nil {
		return nil, e.explain(ctx, "inspecting an image", err)
	}
	if answer.Config == nil {
		return &Image{}, nil
	}
	return answer.Config, nil
}

// EnginePort is the TCP port of an engine at endpoint on this host, 0 if it has none.
func EnginePort(endpoint string) uint16 {
	u, err := url.Parse(endpoint)
	if err != nil || strings.EqualFold(u.Scheme, "unix") {
		return 0
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil {
		return 0
	}
	return uint16(port)
}
