// Command plugin is pulumi-resource-docker.
package main

import (
	_ "embed"

	"github.com/pulumi/pulumi-terraform-bridge/v3/pkg/tfbridge"
	"github.com/terraform-providers/terraform-provider-docker/shim/provider"
)

// Empty here: the build puts the output of ../schema in its place. Making it at each start would cost 0.2 s.
//
//go:embed schema.json
var schema []byte

func main() {
	tfbridge.Main("docker", provider.Version, provider.Info(), schema)
}
