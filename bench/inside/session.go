package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"

	"github.com/ambassadord/ambassadord/bench/inside/job"
)

// generatorSession is a load generator that runs in a client container and takes jobs. It is
// there before anything is measured, because a docker exec costs more than a measurement.
type generatorSession struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Scanner
	stderr bytes.Buffer
}

func openSession(ctx context.Context, container string) (*generatorSession, error) {
	s := &generatorSession{cmd: exec.CommandContext(ctx, "docker", "exec", "-i", container, "/load", "drive")}
	s.cmd.Stderr = &s.stderr
	var err error
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	s.out = bufio.NewScanner(out)
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("docker exec: %w", err)
	}
	return s, nil
}

// do does a job. warm is called when the generator is and measures nothing yet.
func (s *generatorSession) do(j job.Job, warm func() error) (job.Result, error) {
	var r job.Result
	if err := json.NewEncoder(s.in).Encode(j); err != nil {
		return r, fmt.Errorf("give the job: %w", err)
	}
	line, err := s.line()
	if err != nil {
		return r, err
	}
	if len(line) == 0 {
		if err := warm(); err != nil {
			return r, err
		}
		if _, err := io.WriteString(s.in, "\n"); err != nil {
			return r, fmt.Errorf("begin the job: %w", err)
		}
		if line, err = s.line(); err != nil {
			return r, err
		}
	}
	if err := json.Unmarshal(line, &r); err != nil {
		return r, fmt.Errorf("the generator's answer: %w: %q", err, line)
	}
	if r.Error != "" {
		return r, errors.New(r.Error)
	}
	return r, nil
}

func (s *generatorSession) line() ([]byte, error) {
	if s.out.Scan() {
		return s.out.Bytes(), nil
	}
	return nil, fmt.Errorf("the generator has ended: %s", bytes.TrimSpace(s.stderr.Bytes()))
}

func (s *generatorSession) close() {
	_ = s.in.Close() // ends it
	_ = s.cmd.Wait()
}
