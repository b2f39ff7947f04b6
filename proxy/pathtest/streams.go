package pathtest

const (
	much = 6 << 20   // more than the buffers on the way take at once
	slow = 256 << 10 // a receive buffer, of a few segments of the loopback's
)

// sided gives the script for both ways round.
func sided(name string, do func(first, second *end)) []Script {
	return []Script{
		{Name: "client " + name, do: do},
		{Name: "endpoint " + name, do: func(client, endpoint *end) { do(endpoint, client) }},
	}
}

// deeds are scripts of more than one deed.
func deeds() (scripts []Script) {
	for _, s := range []struct {
		name string
		do   func(first, second *end)
	}{{
		"half-closes and the other sends for long", func(first, second *end) {
			first.send(answer)
			first.halfClose()
			second.receiveAll()
			wait := second.sendMeanwhile(much)
			first.receive(much)
			wait()
			second.halfClose()
			first.receiveAll()
		},
	}, {
		"sends for long after the other half-closed", func(first, second *end) {
			second.halfClose()
			first.receiveAll()
			for range 4 {
				wait := first.sendMeanwhile(much / 4)
				second.receive(much / 4)
				wait()
			}
			first.close()
			second.receiveAll()
		},
	}, {
		"sends much to a slow reader and closes", func(first, second *end) {
			_ = second.conn.SetReadBuffer(slow)
			wait := first.sendMeanwhile(much)
			second.receive(block)
			go func() { wait(); first.close() }()
			second.receiveAll()
		},
	}, {
		"sends much to a slow reader and half-closes", func(first, second *end) {
			_ = second.conn.SetReadBuffer(slow)
			wait := first.sendMeanwhile(much)
			second.receive(block)
			go func() { wait(); first.halfClose() }()
			second.receiveAll()
			second.send(answer)
			first.receive(answer)
		},
	}, {
		"resets when all is acknowledged and little is read", func(first, second *end) {
			first.send(block)
			first.acknowledged()
			first.reset()
			second.receiveAtLeast(block)
			second.send(1)
		},
	}, {
		"sends much to a slow reader and resets", func(first, second *end) {
			_ = second.conn.SetReadBuffer(slow)
			wait := first.sendMeanwhile(much)
			second.receive(block)
			acknowledged := make(chan int, 1)
			go func() {
				wait()
				first.acknowledged()
				first.reset()
				acknowledged <- first.sent
			}()
			second.receiveAtLeast(much)
			<-acknowledged
		},
	}, {
		"sends much and resets with data on its way", func(first, second *end) {
			wait := first.sendMeanwhile(64 << 20)
			second.receive(block)
			first.reset()
			wait()
			second.receiveAtLeast(block)
		},
	}, {
		"resets what the other blocks in sending", func(first, second *end) {
			_ = first.conn.SetReadBuffer(slow)
			done := make(chan struct{})
			go func() { defer close(done); second.send(64 << 20) }()
			first.receive(block)
			first.reset()
			<-done
			second.broken()
		},
	}, {
		"half-closes and resets later", func(first, second *end) {
			first.send(answer)
			first.halfClose()
			second.receiveAll()
			first.reset()
			second.broken()
			second.send(1)
		},
	}, {
		"half-closes, is answered, and resets unread what it got", func(first, second *end) {
			first.halfClose()
			second.receiveAll()
			second.send(block)
			first.arrived()
			first.close()
			second.broken()
		},
	}, {
		"half-closes after the other, which resets", func(first, second *end) {
			second.halfClose()
			first.receiveAll()
			second.reset()
			first.broken()
			first.halfClose()
		},
	}, {
		"answers without reading the question, and closes", func(first, second *end) {
			second.send(block)
			first.arrived()
			first.send(block)
			second.arrived()
			first.close()
			second.broken()
			second.receiveAtLeast(block)
		},
	}, {
		"answers and half-closes without reading the question, and closes", func(first, second *end) {
			second.send(block)
			first.arrived()
			first.send(block)
			first.halfClose()
			second.arrived()
			first.acknowledged()
			first.close()
			second.receiveAll()
			second.broken()
		},
	}, {
		"sends many small pieces, as does the other", func(first, second *end) {
			const n = 20000
			for _, e := range []*end{first, second} {
				e.sending.Go(func() { e.sendPieces(n); e.halfClose() })
			}
			first.sending.Wait()
			second.sending.Wait()
			first.receiveAll()
			second.receiveAll()
		},
	}, {
		"half-closes at once with the other", func(first, second *end) {
			first.send(answer)
			second.send(answer)
			first.sending.Go(first.halfClose)
			second.halfClose()
			first.sending.Wait()
			first.receiveAll()
			second.receiveAll()
		},
	}, {
		"closes at once with the other", func(first, second *end) {
			first.send(answer)
			second.receive(answer)
			first.sending.Go(first.close)
			second.close()
		},
	}} {
		scripts = append(scripts, sided(s.name, s.do)...)
	}
	return scripts
}
