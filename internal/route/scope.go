package route

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/policy"
	"github.com/ambassadord/ambassadord/internal/settings"
)

// policy is the one that holds now. It takes no lock.
func (r *Router) policy() *policy.Policy {
	return r.settings.Load().Policy
}

// isDenial reports whether p is the policy's.
func isDenial(p *binding.Problem) bool {
	if p == nil {
		return false
	}
	_, ok := errors.AsType[*policy.Denial](p)
	return ok
}

// scopeOf is what the policy says of what b declares for container, which is nil for a
// client that is none. It may wait for the engine to tell of the container's image, if a
// rule is about that.
func (r *Router) scopeOf(b *binding.Binding, container *dockerd.Container) *policy.Scope {
	return r.scope(b, container, true)
}

// scopeNow is scopeOf that does not wait: what is not known of an image then is unknown.
func (r *Router) scopeNow(b *binding.Binding, container *dockerd.Container) *policy.Scope {
	return r.scope(b, container, false)
}

func (r *Router) scope(b *binding.Binding, container *dockerd.Container, wait bool) *policy.Scope {
	p, target := r.policy(), settings.TargetOf(b.Target)
	target.Text = b.Text
	if b.Place == binding.InListener { // whose connections are, is not sure there
		return p.Scope(policy.Client{ByOperator: true, ByImage: policy.No}, target)
	}
	c := policy.Client{ByOperator: b.Place == binding.InConfiguration}
	if container != nil {
		c.Container, c.Labels, c.Image, c.Project = container.Name, container.Labels, container.Image, container.Labels[dockerd.LabelProject]
		c.Networks, c.NetworksKnown = r.networksOf(container), !container.Announced
		if p.AsksImages() && !c.ByOperator && (wait || r.imageKnown(p, container)) {
			c.ByImage = byImage(b, r.imageOf(container))
		}
	}
	return p.Scope(c, target)
}

// networksOf are the names of the networks that container is on, by itself or by the
// container whose network namespace it shares.
func (r *Router) networksOf(container *dockerd.Container) []string {
	owner := container
	if r.snapshots != nil {
		if s := r.snapshots.Snapshot(); s != nil {
			if o := s.NetnsOwner(container); o != nil {
				owner = o
			}
		}
	}
	names := make([]string, len(owner.Networks))
	for i, n := range owner.Networks {
		names[i] = n.Name
	}
	return names
}

// byImage reports whether image itself declares b.
func byImage(b *binding.Binding, image *dockerd.Image) policy.Known {
	if image == nil {
		return policy.Unknown
	}
	declares := b.Place == binding.InLabel && b.Key != "" && image.Labels[b.Key] == b.Text ||
		b.Place == binding.InEnvironment && slices.Contains(image.Env, b.Key+"="+b.Text)
	if declares {
		return policy.Yes
	}
	return policy.No
}

// imagePatience is how long a connection waits for what its container's image declares.
const imagePatience = 2 * time.Second

// imageOf is the image of container, nil if the engine does not tell in time.
func (r *Router) imageOf(container *dockerd.Container) *dockerd.Image {
	if r.images == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), imagePatience)
	defer cancel()
	id := container.ImageID
	if id == "" { // it was only announced
		now, err := r.images.Inspect(ctx, container.ID)
		if err != nil {
			return nil
		}
		id = now.ImageID
	}
	image, err := r.images.Image(ctx, id)
	if err != nil {
		r.log.Debug("cannot tell what an image declares itself", "container", container.Name, "image", container.Image, "error", err)
		return nil
	}
	return image
}

// imageKnown reports whether imageOf would not wait, or is not asked.
func (r *Router) imageKnown(p *policy.Policy, container *dockerd.Container) bool {
	return !p.AsksImages() || r.images == nil || r.images.KnowsImage(container.ImageID)
}
