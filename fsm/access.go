package fsm

// Grant stores a token. Its proposer has made the ID and the secret; a repeat of the same grant changes nothing.
type Grant struct {
	Access Access `json:"access"`
}

// Kind implements Command.
func (*Grant) Kind() string { return "grant" }

func (c *Grant) apply(t *tx) Result {
	a := c.Access
	switch {
	case a.ID == "" || len(a.Secret) < 16:
		return refuse(Invalid, "a token needs an ID and a secret of at least 16 bytes")
	case a.Kind == AccessJoin && a.Uses < 1:
		return refuse(Invalid, "a join token needs at least one use")
	case a.Kind != AccessJoin && a.Kind != AccessUser && a.Kind != AccessSession:
		return refuse(Invalid, "a token opens the API for a user, a browser's session, or a machine's joining")
	case a.Kind != AccessJoin && (a.User == "" || !a.Role.Valid()):
		return refuse(Invalid, "a user's token needs a user and one of the roles viewer, member, admin")
	}
	if old := t.view().AccessByID(a.ID); old != nil {
		if string(old.Secret) == string(a.Secret) {
			return ok() // repeated
		}
		return refuse(Conflict, "a token with this ID exists")
	}
	if t.view().AccessBySecret(a.Secret) != nil {
		return refuse(Conflict, "a token with this secret exists")
	}
	a.CreatedAt, a.By = t.now, t.by
	t.put(tableAccess, &a)
	return ok()
}

// Revoke takes a token back.
type Revoke struct {
	ID string `json:"id"`
}

// Kind implements Command.
func (*Revoke) Kind() string { return "revoke" }

func (c *Revoke) apply(t *tx) Result {
	a := t.view().AccessByID(c.ID)
	if a == nil {
		return refuse(NotFound, "there is no token with this ID")
	}
	t.drop(tableAccess, a)
	return ok()
}
