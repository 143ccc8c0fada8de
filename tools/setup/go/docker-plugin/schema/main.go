// Command schema writes the plugin's schema to the file named by its argument. A program of its own, since what makes the
// schema would add 30 MB to the plugin.
package main

import (
	"encoding/json"
	"io"
	"os"

	"github.com/pulumi/pulumi-terraform-bridge/v3/pkg/tfgen"
	"github.com/pulumi/pulumi/sdk/v3/go/common/diag"
	"github.com/pulumi/pulumi/sdk/v3/go/common/diag/colors"
	"github.com/pulumi/pulumi/sdk/v3/go/common/util/contract"
	"github.com/terraform-providers/terraform-provider-docker/shim/provider"
)

func main() {
	sink := diag.DefaultSink(io.Discard, os.Stderr, diag.FormatOptions{Color: colors.Never})
	spec, err := tfgen.GenerateSchema(provider.Info(), sink)
	contract.AssertNoErrorf(err, "generating the schema")
	text, err := json.Marshal(spec)
	contract.AssertNoErrorf(err, "encoding the schema")
	contract.AssertNoErrorf(os.WriteFile(os.Args[1], text, 0o644), "writing the schema")
}
