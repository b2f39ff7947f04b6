package etcd

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"strconv"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// authenticate puts user, password and TLS from the ETCDCTL_* environment into
// config (https://etcd.io/docs/latest/dev-guide/interacting_v3/). An address
// without a scheme is https as soon as TLS is configured, by the environment or by one of
// the cluster's other endpoints.
func authenticate(config *clientv3.Config, endpoints []string) error {
	var ok bool
	config.Username, config.Password, ok = strings.Cut(os.Getenv("ETCDCTL_USER"), ":")
	if !ok {
		config.Password = os.Getenv("ETCDCTL_PASSWORD")
	}
	if config.Username != "" && config.Password == "" {
		return fmt.Errorf("user %s has no password: set ETCDCTL_PASSWORD, or ETCDCTL_USER to USER:PASSWORD", config.Username)
	}
	var err error
	config.TLS, err = tlsConfig(endpoints)
	return err
}

func tlsConfig(endpoints []string) (*tls.Config, error) {
	ca, cert, key := os.Getenv("ETCDCTL_CACERT"), os.Getenv("ETCDCTL_CERT"), os.Getenv("ETCDCTL_KEY")
	insecure, _ := strconv.ParseBool(os.Getenv("ETCDCTL_INSECURE_SKIP_TLS_VERIFY"))
	wanted := ca != "" || cert != "" || insecure
	for _, e := range endpoints {
		wanted = wanted || strings.HasPrefix(e, "https://")
	}
	if !wanted {
		return nil, nil //nolint:nilnil // no TLS is what was asked for
	}
	config := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: insecure, //nolint:gosec // somebody set the variable that says so
	}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("ETCDCTL_CACERT: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ETCDCTL_CACERT: %s holds no certificate in PEM", ca)
		}
	}
	if (cert == "") != (key == "") {
		return nil, fmt.Errorf("ETCDCTL_CERT and ETCDCTL_KEY go together; %q and %q are set", cert, key)
	}
	if cert != "" {
		// Read at every handshake: such pairs are short-lived and replaced in place.
		load := func() (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(cert, key)
			if err != nil {
				return nil, fmt.Errorf("ETCDCTL_CERT and ETCDCTL_KEY: %w", err)
			}
			return &pair, nil
		}
		if _, err := load(); err != nil {
			return nil, err
		}
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	}
	return config, nil
}
